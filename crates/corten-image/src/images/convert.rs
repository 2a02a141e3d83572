//! Layers in another form: compressed in another way, or with other times.

use std::io::{self, Read, Write};

use corten_base::Cancel;
use corten_wire::oci_image::{Descriptor, media_type};

use super::Images;
use crate::compress;
use crate::content::HashingReader;
use crate::tar::{Reader, TarError, Writer};
use crate::{ImageError, Layer, LayerCompression};

impl Images {
    /// The same layer, compressed in another way; `level` is the compressor's own choice without one. It is kept for
    /// an hour until an image has it.
    ///
    /// # Errors
    /// The blob is gone or damaged.
    pub fn recompress(
        &self,
        layer: &Layer,
        compression: LayerCompression,
        level: Option<u32>,
        cancel: &Cancel,
    ) -> Result<Layer, ImageError> {
        let mut pins = self.content().pins();
        let blob = self.content().open_blob(&layer.blob.digest)?;
        let (_, plain) = compress::decoder(blob).map_err(ImageError::Stream)?;
        let mut plain = HashingReader::new(Cancelled { inner: plain, cancel });
        let ingest = self.content().ingest()?;
        let (kind, ingest) = match compression {
            LayerCompression::None => (media_type::LAYER, copy(&mut plain, ingest)?),
            LayerCompression::Gzip => {
                let level = level.map_or(flate2::Compression::default(), flate2::Compression::new);
                let encoder = flate2::write::GzEncoder::new(ingest, level);
                (media_type::LAYER_GZIP, copy(&mut plain, encoder)?.finish().map_err(ImageError::Stream)?)
            }
            LayerCompression::Zstd => {
                let level = i32::try_from(level.unwrap_or_default()).unwrap_or_default();
                let encoder = zstd::stream::write::Encoder::new(ingest, level).map_err(ImageError::Stream)?;
                (media_type::LAYER_ZSTD, copy(&mut plain, encoder)?.finish().map_err(ImageError::Stream)?)
            }
        };
        let got = plain.finish();
        if got != layer.diff_id {
            let wanted = layer.diff_id.to_string();
            return Err(ImageError::DigestMismatch { wanted, got: got.to_string() });
        }
        let (digest, size) = ingest.finish(None, &mut pins)?;
        self.content().pin_loosely(&digest);
        Ok(Layer { diff_id: layer.diff_id.clone(), blob: Descriptor::new(kind, digest, size) })
    }

    /// The layer with no time after `seconds` since the epoch. It is kept for an hour until an image has it.
    ///
    /// # Errors
    /// The blob is gone or no tar.
    pub fn with_times(&self, layer: &Layer, seconds: i64, cancel: &Cancel) -> Result<Layer, ImageError> {
        let blob = self.content().open_blob(&layer.blob.digest)?;
        let (mut from, to) = io::pipe().map_err(ImageError::Stream)?;
        std::thread::scope(|scope| {
            let rewriting = scope.spawn(move || -> Result<(), ImageError> {
                let (_, plain) = compress::decoder(blob).map_err(ImageError::Stream)?;
                let mut reader = Reader::new(plain);
                let mut writer = Writer::new(io::BufWriter::with_capacity(64 << 10, to));
                while let Some(mut entry) = reader.next_entry()? {
                    if entry.mtime > (seconds, 0) {
                        entry.mtime = (seconds, 0);
                    }
                    writer.append(&entry, &mut reader.data())?;
                }
                let out = writer.finish()?.into_inner();
                out.map(drop).map_err(|e| TarError::Write(e.into_error()).into())
            });
            let put = self.put_layer(&mut from, cancel);
            drop(from);
            match rewriting.join() {
                // What went wrong first is on the other side of the pipe.
                Ok(Err(error)) if put.is_ok() => Err(error),
                _ => put,
            }
        })
    }
}

fn copy<W: Write>(from: &mut dyn Read, mut to: W) -> Result<W, ImageError> {
    io::copy(from, &mut to).map_err(ImageError::Stream)?;
    Ok(to)
}

/// Ends a stream that nobody wants any more.
struct Cancelled<'a, R> {
    inner: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Cancelled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("context canceled"));
        }
        self.inner.read(buffer)
    }
}

//! `GET /containers/{id}/attach/ws`: the raw stream in the frames of RFC 6455. Only what attaching needs: binary
//! frames out; data, ping and close in.

use std::io;

use base64::Engine as _;
use corten_base::Kind;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::BLOCK;
use crate::body::full;
use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::stream::sha1::sha1;

/// A message of a client that is longer is an attack: nobody types this fast.
const MAX_FRAME: u64 = 1 << 20;
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// Answers the handshake and pumps frames. `framed`: the output is multiplexed, which a page knows nothing of.
pub(crate) fn websocket<A>(mut call: Call, attached: A, framed: bool) -> Answer
where
    A: AsyncRead + AsyncWrite + Send + 'static,
{
    let key = call.header("sec-websocket-key").to_owned();
    let is_websocket = call.header("upgrade").eq_ignore_ascii_case("websocket");
    let Some(upgrade) = call.upgrade.take().filter(|_| is_websocket && !key.is_empty()) else {
        return Err(ApiError::new(Kind::InvalidArgument, "bad request: not a websocket handshake"));
    };
    let link = std::sync::Arc::clone(&call.link);
    tokio::spawn(async move {
        let client = upgrade.await;
        link.release_end();
        if let Ok(client) = client
            && let Err(error) = pump(TokioIo::new(client), attached, framed).await
        {
            tracing::debug!(%error, "websocket");
        }
    });
    let accept = base64::engine::general_purpose::STANDARD.encode(sha1(format!("{key}{MAGIC}").as_bytes()));
    let mut response = http::Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).map_err(|e| ApiError::internal(e.to_string()))?;
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

async fn pump<C, A>(client: C, attached: A, framed: bool) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
    A: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut output, mut input) = tokio::io::split(attached);
    let mut block = vec![0; BLOCK];
    let mut frames = framed.then(Unframe::default);
    let (pings, mut pongs) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let upward = async move {
        while let Some((opcode, data)) = read_frame(&mut from_client).await? {
            match opcode {
                0..=2 => {
                    input.write_all(&data).await?;
                    input.flush().await?;
                }
                8 => break,
                9 => {
                    // A client that pings faster than it reads loses pongs.
                    let _ = pings.try_send(data);
                }
                _ => {}
            }
        }
        input.shutdown().await?;
        Ok::<_, io::Error>(())
    };
    let downward = async move {
        loop {
            tokio::select! {
                n = output.read(&mut block) => {
                    let n = n?;
                    if n == 0 {
                        write_frame(&mut to_client, CLOSE, &1000u16.to_be_bytes()).await?;
                        return to_client.shutdown().await;
                    }
                    match &mut frames {
                        None => write_frame(&mut to_client, BINARY, &block[..n]).await?,
                        Some(frames) => {
                            let plain = frames.feed(&block[..n]);
                            if !plain.is_empty() {
                                write_frame(&mut to_client, BINARY, &plain).await?;
                            }
                        }
                    }
                }
                Some(data) = pongs.recv() => write_frame(&mut to_client, PONG, &data).await?,
            }
        }
    };
    tokio::select! {
        done = downward => done,
        done = upward => done,
    }
}

/// Takes the heads out of multiplexed output.
#[derive(Debug, Default)]
struct Unframe {
    head: Vec<u8>,
    left: usize,
}

impl Unframe {
    fn feed(&mut self, mut data: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(data.len());
        while !data.is_empty() {
            if self.left > 0 {
                let n = self.left.min(data.len());
                plain.extend_from_slice(&data[..n]);
                self.left -= n;
                data = &data[n..];
                continue;
            }
            let n = (8 - self.head.len()).min(data.len());
            self.head.extend_from_slice(&data[..n]);
            data = &data[n..];
            if let Ok(head) = <[u8; 8]>::try_from(self.head.as_slice()) {
                self.left =
                    usize::try_from(u32::from_be_bytes([head[4], head[5], head[6], head[7]])).unwrap_or(0);
                self.head.clear();
            }
        }
        plain
    }
}

async fn write_frame(out: &mut (impl AsyncWrite + Unpin), first: u8, data: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match (u8::try_from(data.len()), u16::try_from(data.len())) {
        (Ok(n), _) if n < 126 => frame.push(n),
        (_, Ok(n)) => {
            frame.push(126);
            frame.extend_from_slice(&n.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(data.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(data);
    out.write_all(&frame).await?;
    out.flush().await
}

/// Opcode and unmasked data; `None` at the end.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 2];
    match from.read_exact(&mut head).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let len = match head[1] & 0x7f {
        126 => u64::from(from.read_u16().await?),
        127 => from.read_u64().await?,
        n => u64::from(n),
    };
    if len > MAX_FRAME || head[1] & 0x80 == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "websocket frame too long or not masked"));
    }
    let mut mask = [0; 4];
    from.read_exact(&mut mask).await?;
    let mut data = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    from.read_exact(&mut data).await?;
    for (i, byte) in data.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    Ok(Some((head[0] & 0x0f, data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_of_the_rfc() {
        let key = format!("dGhlIHNhbXBsZSBub25jZQ=={MAGIC}");
        let accept = base64::engine::general_purpose::STANDARD.encode(sha1(key.as_bytes()));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn heads_of_frames_are_taken_out_wherever_the_cuts_are() {
        let text = b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x02de";
        for cut in 0..text.len() {
            let mut frames = Unframe::default();
            let mut plain = frames.feed(&text[..cut]);
            plain.extend(frames.feed(&text[cut..]));
            assert_eq!(plain, b"abcde", "{cut}");
        }
    }

    #[tokio::test]
    async fn frames_go_both_ways() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (shell, mut process) = tokio::io::duplex(1024);
        let pumping = tokio::spawn(pump(near, shell, false));
        far.write_all(&[0x82, 0x82, 1, 1, 1, 1, b'h' ^ 1, b'i' ^ 1]).await.unwrap();
        let mut got = [0; 2];
        process.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
        process.write_all(b"yo").await.unwrap();
        let mut frame = [0; 4];
        far.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, &[BINARY, 2, b'y', b'o']);
        drop(process);
        pumping.await.unwrap().unwrap();
    }
}

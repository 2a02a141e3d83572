//! Caches elsewhere, in BuildKit's form (`application/vnd.buildkit.cacheconfig.v0`).
//!
//! ```text
//!   layers   [{blob, parent}]                      a layer stands on its parents; -1 for none
//!   records  [{digest, layers: [{layer}]}]         what the step of this key made, with all parents of the layer
//!            [{digest, chains: [{layers: [..]}]}]  the same, each layer said
//! ```
//! The digest of a record is the key of the step, which includes what the step stands on; so records have no inputs.
//! BuildKit's own records have, and keys that mean nothing to us: they can be read, and are never hit. A layer is
//! believed only where its content is what the cache says it is; that the step made it is the word of the cache,
//! which the user chose to trust by `--cache-from`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use corten_base::{Cancel, Digest, time};
use corten_image::{Images, Layer};
use corten_wire::oci_image::{Descriptor, media_type};
use serde::{Deserialize, Serialize};

use crate::error::BuildError;

/// Type of the configuration.
const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Annotation of a layer: the digest of its uncompressed content.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation of a layer: when it was made.
const CREATED: &str = "buildkit/createdat";
/// Most parents of a layer.
const DEPTH: usize = 1024;
/// Bytes between two messages about a layer.
const TOLD: u64 = 1 << 20;

/// A step of a build, as caches elsewhere need it.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheStep {
    pub(crate) key: String,
    /// What the stage was made of after it, or its own layer only where it does not look at what is below.
    pub(crate) chain: Vec<Layer>,
    /// It does not look at what is below.
    pub(crate) alone: bool,
    pub(crate) created_ns: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CacheConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<CacheLayer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<CacheRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CacheLayer {
    blob: Digest,
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<LayerAnnotations>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerAnnotations {
    #[serde(default)]
    media_type: String,
    #[serde(default, rename = "diffID")]
    diff_id: Option<Digest>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CacheRecord {
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty")]
    results: Vec<CacheResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chains: Vec<ChainedResult>,
    /// COMPAT: other builders' keys need not be of our kind.
    #[serde(default)]
    digest: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CacheResult {
    layer: usize,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainedResult {
    layers: Vec<usize>,
    #[serde(default)]
    created_at: String,
}

fn shown_time(ns: i64) -> String {
    time::rfc3339_nano(i128::from(ns))
}

fn read_time(text: &str) -> i64 {
    time::parse_rfc3339(text).and_then(|t| i64::try_from(t).ok()).unwrap_or_default()
}

/// A cache for elsewhere.
#[derive(Debug)]
pub struct RemoteCache {
    /// The configuration.
    pub config: Vec<u8>,
    /// The layers it speaks of, annotated; none where there is nothing to keep.
    pub layers: Vec<Descriptor>,
}

impl RemoteCache {
    /// Media type of the configuration.
    pub const CONFIG: &'static str = CONFIG;

    /// Of these steps.
    #[must_use]
    pub fn of(steps: &[CacheStep]) -> Self {
        let mut config = CacheConfig::default();
        let mut descriptors = BTreeMap::new();
        // A layer may stand on different layers.
        let mut places: HashMap<(i64, Digest), i64> = HashMap::new();
        let mut known = std::collections::BTreeSet::new();
        for step in steps {
            // A step that takes nothing from below and made nothing has no result that could be told.
            if step.chain.is_empty() || !known.insert(&step.key) {
                continue;
            }
            let mut parent = -1;
            for layer in &step.chain {
                let next = i64::try_from(config.layers.len()).unwrap_or(i64::MAX);
                let created = shown_time(step.created_ns);
                parent = *places.entry((parent, layer.blob.digest.clone())).or_insert_with(|| {
                    config.layers.push(CacheLayer {
                        blob: layer.blob.digest.clone(),
                        parent,
                        annotations: Some(LayerAnnotations {
                            media_type: layer.blob.media_type.clone(),
                            diff_id: Some(layer.diff_id.clone()),
                            size: layer.blob.size,
                            created_at: created.clone(),
                        }),
                    });
                    next
                });
                let annotations =
                    [(UNCOMPRESSED.to_owned(), layer.diff_id.to_string()), (CREATED.to_owned(), created)];
                descriptors
                    .entry(layer.blob.digest.clone())
                    .or_insert_with(|| Descriptor { annotations: annotations.into(), ..layer.blob.clone() });
            }
            let layer = usize::try_from(parent).unwrap_or_default();
            config.records.push(CacheRecord {
                results: vec![CacheResult { layer, created_at: shown_time(step.created_ns) }],
                chains: Vec::new(),
                digest: format!("sha256:{}", step.key),
            });
        }
        let mut layers: Vec<Descriptor> = Vec::new();
        for layer in &config.layers {
            layers.extend(descriptors.remove(&layer.blob));
        }
        Self { config: serde_json::to_vec(&config).unwrap_or_default(), layers }
    }

    /// The records of steps whose results are all in an image of these layers, as the image's configuration has
    /// them; `None` where there are none.
    #[must_use]
    pub fn inline(steps: &[CacheStep], layers: &[Layer]) -> Option<Vec<u8>> {
        let place = |layer: &Layer| layers.iter().position(|l| l.diff_id == layer.diff_id);
        let records: Vec<CacheRecord> = steps
            .iter()
            .filter(|s| !s.chain.is_empty())
            .filter_map(|step| {
                let created_at = shown_time(step.created_ns);
                let mut record =
                    CacheRecord { digest: format!("sha256:{}", step.key), ..CacheRecord::default() };
                if layers.starts_with(&step.chain) {
                    record.results.push(CacheResult { layer: step.chain.len() - 1, created_at });
                } else {
                    let layers = step.chain.iter().map(place).collect::<Option<Vec<_>>>()?;
                    record.chains.push(ChainedResult { layers, created_at });
                }
                Some(record)
            })
            .collect();
        if records.is_empty() { None } else { serde_json::to_vec(&records).ok() }
    }
}

/// Where the layers of a cache are.
pub trait LayerSource: Send + Sync + std::fmt::Debug {
    /// The bytes of a blob.
    ///
    /// # Errors
    /// It cannot be had.
    fn open<'a>(
        &'a self,
        blob: &Descriptor,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Read + Send + 'a>, BuildError>;
}

/// A cache from elsewhere.
#[derive(Debug)]
pub struct ImportedCache {
    steps: BTreeMap<String, (Vec<Layer>, i64)>,
    source: Arc<dyn LayerSource>,
}

/// What a cache knows of a step.
#[derive(Debug)]
pub(crate) struct FoundStep {
    pub(crate) layer: Option<Layer>,
    pub(crate) created_ns: i64,
}

impl ImportedCache {
    /// Of a configuration and the layers that its manifest lists.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(
        config: &[u8],
        layers: &[Descriptor],
        source: Arc<dyn LayerSource>,
    ) -> Result<Self, BuildError> {
        let config: CacheConfig = serde_json::from_slice(config)
            .map_err(|e| BuildError::invalid(format!("invalid cache configuration: {e}")))?;
        let listed: HashMap<&Digest, &Descriptor> = layers.iter().map(|l| (&l.digest, l)).collect();
        let layers: Vec<(Option<Layer>, i64)> =
            config.layers.iter().map(|l| (layer_of(l, listed.get(&l.blob).copied()), l.parent)).collect();
        Ok(Self::of(config.records, &layers, source))
    }

    /// Of an image that has its cache in its configuration; `None` where it has none.
    ///
    /// # Errors
    /// What is there is none.
    pub fn parse_inline(
        records: &[u8],
        layers: &[Layer],
        source: Arc<dyn LayerSource>,
    ) -> Result<Self, BuildError> {
        let records: Vec<CacheRecord> = serde_json::from_slice(records)
            .map_err(|e| BuildError::invalid(format!("invalid cache configuration: {e}")))?;
        let layers: Vec<_> =
            layers.iter().enumerate().map(|(n, l)| (Some(l.clone()), n as i64 - 1)).collect();
        Ok(Self::of(records, &layers, source))
    }

    fn of(records: Vec<CacheRecord>, layers: &[(Option<Layer>, i64)], source: Arc<dyn LayerSource>) -> Self {
        let mut steps = BTreeMap::new();
        for record in records {
            let Some(key) = record.digest.strip_prefix("sha256:") else { continue };
            let results = record.results.iter().map(|r| (with_parents(layers, r.layer), &r.created_at));
            let chains = record.chains.iter().map(|r| {
                let chain = r.layers.iter().map(|n| layers.get(*n)?.0.clone()).collect::<Option<Vec<_>>>();
                (chain, &r.created_at)
            });
            let mut all = results.chain(chains);
            let found = all.find_map(|(chain, created)| Some((chain?, read_time(created))));
            steps.extend(found.map(|f| (key.to_owned(), f)));
        }
        Self { steps, source }
    }

    /// What it knows of a step on these layers.
    pub(crate) fn step(&self, key: &str, below: &[Layer]) -> Option<FoundStep> {
        let (chain, created_ns) = self.steps.get(key)?;
        let same = |a: &[Layer], b: &[Layer]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.diff_id == b.diff_id)
        };
        let created_ns = *created_ns;
        if same(chain, below) {
            return Some(FoundStep { layer: None, created_ns });
        }
        let (top, rest) = chain.split_last()?;
        (rest.is_empty() || same(rest, below)).then(|| FoundStep { layer: Some(top.clone()), created_ns })
    }

    /// Brings a layer here, if it is not.
    pub(crate) fn bring(
        &self,
        images: &Images,
        layer: Option<Layer>,
        progress: &mut dyn FnMut(&str, u64, u64),
        cancel: &Cancel,
    ) -> Result<Option<Layer>, BuildError> {
        let Some(layer) = layer else { return Ok(None) };
        if images.has_layer(&layer) {
            return Ok(Some(layer));
        }
        let mut source = Counted {
            inner: self.source.open(&layer.blob, cancel)?,
            progress,
            layer: &layer,
            bytes: 0,
            told: 0,
        };
        let brought = images.put_layer(&mut source, cancel)?;
        source.tell(true);
        if brought.diff_id != layer.diff_id {
            let (wanted, got) = (&layer.diff_id, &brought.diff_id);
            return Err(BuildError::invalid(format!("layer {wanted} of a cache is {got}")));
        }
        Ok(Some(brought))
    }
}

/// The layer and what it stands on, lowest first; `None` where the cache has not all of it.
fn with_parents(layers: &[(Option<Layer>, i64)], top: usize) -> Option<Vec<Layer>> {
    let mut chain = Vec::new();
    let mut next = Some(top);
    while let Some(n) = next {
        let (layer, parent) = layers.get(n)?;
        chain.push(layer.clone()?);
        if chain.len() > DEPTH {
            return None;
        }
        next = usize::try_from(*parent).ok();
    }
    chain.reverse();
    Some(chain)
}

/// COMPAT: what a layer is, the manifest's descriptor says, the configuration, or both.
fn layer_of(layer: &CacheLayer, listed: Option<&Descriptor>) -> Option<Layer> {
    let listed = listed?;
    let noted = layer.annotations.as_ref();
    let diff_id = listed.annotations.get(UNCOMPRESSED).and_then(|d| d.parse().ok());
    let diff_id = diff_id.or_else(|| noted.and_then(|a| a.diff_id.clone()))?;
    let kind = &listed.media_type;
    media_type::is_layer(kind)
        .then(|| Layer { diff_id, blob: Descriptor::new(kind.clone(), listed.digest.clone(), listed.size) })
}

/// Tells how much came.
struct Counted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    progress: &'a mut dyn FnMut(&str, u64, u64),
    layer: &'a Layer,
    bytes: u64,
    told: u64,
}

impl Counted<'_> {
    fn tell(&mut self, done: bool) {
        let total = self.layer.blob.size;
        let current = if done { total } else { self.bytes.min(total.saturating_sub(1)) };
        (self.progress)(self.layer.blob.digest.as_str(), current, total);
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        if self.bytes >= self.told + TOLD {
            self.told = self.bytes;
            self.tell(false);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    impl LayerSource for Nowhere {
        fn open<'a>(
            &'a self,
            _: &Descriptor,
            _: &'a Cancel,
        ) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
            Err(BuildError::Cancelled)
        }
    }

    fn layer(name: &str) -> Layer {
        let blob = Digest::of(format!("blob {name}").as_bytes());
        Layer { diff_id: Digest::of(name.as_bytes()), blob: Descriptor::new(media_type::LAYER_GZIP, blob, 7) }
    }

    fn step(key: &str, chain: &[&str], alone: bool) -> CacheStep {
        let chain = chain.iter().map(|l| layer(l)).collect();
        CacheStep { key: key.to_owned(), chain, alone, created_ns: 1_000_000_000 }
    }

    fn layers(names: &[&str]) -> Vec<Layer> {
        names.iter().map(|n| layer(n)).collect()
    }

    fn found(cache: &ImportedCache, key: &str, below: &[&str]) -> Option<Option<Digest>> {
        cache.step(key, &layers(below)).map(|f| f.layer.map(|l| l.diff_id))
    }

    #[test]
    fn what_goes_out_comes_back() {
        let steps = [
            step("k1", &["base", "a"], false),
            // Made nothing.
            step("k2", &["base", "a"], false),
            step("k3", &["linked"], true),
            step("k4", &["base", "a", "linked"], false),
            step("k5", &["base", "a", "linked", "b"], false),
            step("none", &[], true),
        ];
        let image = layers(&["base", "a", "linked", "b"]);
        let cache = RemoteCache::of(&steps);
        assert_eq!(cache.layers.len(), 4);
        assert_eq!(cache.layers[0].annotations[UNCOMPRESSED], layer("base").diff_id.to_string());
        let normal = ImportedCache::parse(&cache.config, &cache.layers, Arc::new(Nowhere)).unwrap();
        let inline = RemoteCache::inline(&steps, &image).unwrap();
        let inline = ImportedCache::parse_inline(&inline, &image, Arc::new(Nowhere)).unwrap();
        for cache in [normal, inline] {
            let top = |name: &str| Some(Some(layer(name).diff_id));
            assert_eq!(found(&cache, "k1", &["base"]), top("a"));
            assert_eq!(found(&cache, "k2", &["base", "a"]), Some(None));
            assert_eq!(found(&cache, "k3", &["anything", "below"]), top("linked"));
            assert_eq!(found(&cache, "k5", &["base", "a", "linked"]), top("b"));
            assert_eq!(found(&cache, "k5", &["other"]), None);
            assert_eq!(found(&cache, "none", &[]), None);
            assert_eq!(cache.step("k1", &layers(&["base"])).unwrap().created_ns, 1_000_000_000);
        }
    }

    #[test]
    fn caches_of_buildkit_and_bad_ones() {
        let a = layer("a");
        let mut listed = a.blob.clone();
        listed.annotations.insert(UNCOMPRESSED.into(), a.diff_id.to_string());
        let config = |parent: i64| {
            format!(
                "{{\"layers\":[{{\"blob\":\"{}\",\"parent\":{parent}}}],\"records\":[{{\"digest\":\"random:x\"}},\
                 {{\"digest\":\"sha256:k\",\"inputs\":[[{{\"selector\":\"s\",\"link\":0}}]],\
                 \"layers\":[{{\"layer\":0,\"createdAt\":\"2026-01-01T00:00:00Z\"}}]}},\
                 {{\"digest\":\"sha256:out\",\"layers\":[{{\"layer\":9}}]}}]}}",
                a.blob.digest
            )
        };
        let parse = |parent, listed: &[Descriptor]| {
            ImportedCache::parse(config(parent).as_bytes(), listed, Arc::new(Nowhere))
        };
        let good = parse(-1, &[listed.clone()]).unwrap();
        assert_eq!(found(&good, "k", &[]), Some(Some(a.diff_id.clone())));
        assert_eq!(found(&good, "out", &[]), None);
        assert!(parse(0, &[listed]).unwrap().steps.is_empty(), "a circle");
        assert!(parse(-1, &[]).unwrap().steps.is_empty(), "a layer that is not there");
        assert!(ImportedCache::parse(b"7", &[], Arc::new(Nowhere)).is_err());
    }
}

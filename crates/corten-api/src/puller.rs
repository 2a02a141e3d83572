//! Pulls base images for one build, with the credentials of its request.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::{Cancel, Platform, Reference};
use corten_build::{Puller, StepError};
use corten_image::{Image, Images, Progress};
use corten_registry::{Client, Credentials};
use tokio::runtime::Handle;

use crate::error::chain;

/// See the module. To be used on a blocking thread.
pub(crate) struct RequestPuller {
    pub(crate) images: Images,
    pub(crate) registries: Client,
    pub(crate) credentials: BTreeMap<String, Credentials>,
    pub(crate) runtime: Handle,
}

impl Puller for RequestPuller {
    fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, StepError> {
        let nobody = Credentials::Anonymous;
        let credentials = self.credentials.get(reference.domain()).unwrap_or(&nobody);
        let pulled = self.images.pull(&self.registries, credentials, reference, platform, progress, cancel);
        self.runtime.block_on(pulled).map_err(|e| StepError::Failed { kind: e.kind(), message: chain(&e) })
    }
}

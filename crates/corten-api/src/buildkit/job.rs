//! Builds under way, by the references that clients give them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::ReturnRequest;
use corten_base::Cancel;
use corten_build::Solved;
use tokio::sync::{Notify, oneshot};

use super::progress::Progress;
use crate::grpc::{Code, Status};

/// How long a call waits for the build that it belongs to: both come over connections of their own.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a build that is over can be asked about.
const MEMORY: Duration = Duration::from_secs(20);
/// Results of builds over, for builds that stand on them (`target:` contexts of bake).
const RESULTS: usize = 256;

/// One build.
#[derive(Debug)]
pub(super) struct Job {
    /// The client's name for it.
    pub(super) reference: String,
    /// Session that it belongs to.
    pub(super) session: String,
    pub(super) progress: Progress,
    pub(super) cancel: Cancel,
    returned: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
    /// What the front end was asked.
    attributes: Mutex<HashMap<String, String>>,
    pub(super) started_ns: i128,
}

impl Job {
    pub(super) fn new(reference: &str, session: &str) -> (Arc<Self>, oneshot::Receiver<ReturnRequest>) {
        let (sender, receiver) = oneshot::channel();
        let job = Self {
            reference: reference.to_owned(),
            session: session.to_owned(),
            progress: Progress::default(),
            cancel: Cancel::new(),
            returned: Mutex::new(Some(sender)),
            attributes: Mutex::default(),
            started_ns: corten_base::time::now_ns(),
        };
        (Arc::new(job), receiver)
    }

    /// Remembers what the front end is asked.
    pub(super) fn set_attributes(&self, attributes: &HashMap<String, String>) {
        self.attributes.lock().unwrap_or_else(PoisonError::into_inner).clone_from(attributes);
    }

    pub(super) fn attributes(&self) -> HashMap<String, String> {
        self.attributes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client says how its front end ended.
    pub(super) fn set_returned(&self, request: ReturnRequest) {
        if let Some(sender) = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waits where the build was given up.
            let _ = sender.send(request);
        }
    }
}

/// All builds.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: Mutex<HashMap<String, Arc<Job>>>,
    changed: Notify,
    results: Mutex<Results>,
}

#[derive(Debug, Default)]
struct Results {
    by_id: HashMap<String, Arc<Solved>>,
    order: VecDeque<String>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, job: &Arc<Job>) -> Result<(), Status> {
        let mut all = self.lock();
        if all.get(&job.reference).is_some_and(|j| !j.progress.is_over()) {
            return Err(Status::new(Code::Unknown, format!("job ID {} exists", job.reference)));
        }
        all.insert(job.reference.clone(), Arc::clone(job));
        drop(all);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Whether a build of this reference is under way, or was a moment ago.
    pub(super) fn knows(&self, reference: &str) -> bool {
        self.lock().contains_key(reference)
    }

    /// The build of this reference, which may be about to begin.
    pub(super) async fn get(&self, reference: &str) -> Result<Arc<Job>, Status> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                if let Some(job) = self.lock().get(reference) {
                    return Arc::clone(job);
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .map_err(|_| Status::new(Code::Unknown, format!("no such job {reference}")))
    }

    /// Forgets a build some time after it is over.
    pub(super) fn forget_later(services: &Arc<crate::services::Services>, job: Arc<Job>) {
        let services = Arc::clone(services);
        tokio::spawn(async move {
            tokio::time::sleep(MEMORY).await;
            let mut all = services.buildkit.jobs.lock();
            if all.get(&job.reference).is_some_and(|j| Arc::ptr_eq(j, &job)) {
                all.remove(&job.reference);
            }
        });
    }

    /// Keeps a result; answers with its id.
    pub(super) fn keep(&self, solved: Solved) -> String {
        let id = corten_base::Id::random().to_string();
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.by_id.insert(id.clone(), Arc::new(solved));
        results.order.push_back(id.clone());
        if results.order.len() > RESULTS
            && let Some(oldest) = results.order.pop_front()
        {
            results.by_id.remove(&oldest);
        }
        id
    }

    pub(super) fn result(&self, id: &str) -> Result<Arc<Solved>, Status> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let found = results.by_id.get(id).cloned();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("no such ref: {id}")))
    }
}

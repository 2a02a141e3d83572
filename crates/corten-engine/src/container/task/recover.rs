//! Taking over a container that a former daemon started.

use corten_runtime::client::Shim;
use corten_wire::shim::{Call, Reply};

use super::Task;
use crate::container::launch::{self, Run};
use crate::container::phase::{Event, Found};
use crate::container::{blocking, call_shim, phase_exit};
use crate::record::Standing;

impl Task {
    /// What happened between the first look and now was told to nobody: the container was not in the index yet.
    async fn look_again(&self, found: Found, shim: &Shim) -> Found {
        match call_shim(shim, Call::State, &[]).await {
            Ok((Reply::State(state), _)) => state.exit.map_or(found, |exit| Found::Ended(phase_exit(exit))),
            Ok(_) => found,
            Err(_) => {
                let (shared, record) = (self.shared.clone(), self.record.clone());
                let _ended = blocking(move || {
                    launch::destroy_cgroup(&shared, &record);
                    Ok(())
                })
                .await;
                launch::read_exit(&self.shared.run_dir(&self.record.id)).map_or(Found::Nothing, Found::Ended)
            }
        }
    }

    /// When the shim says that the run began.
    fn run_began(&self) -> i64 {
        launch::read_started(&self.shared.run_dir(&self.record.id)).unwrap_or(self.record.created_ns)
    }

    pub(super) async fn recover(&mut self, mut found: Found, shim: Option<Shim>, run: Run) {
        self.run = run;
        if let (Found::Alive { .. }, Some(shim)) = (&found, &shim) {
            found = self.look_again(found, shim).await;
        }
        match launch::delivery(&self.shared, &self.record, false) {
            Ok(job) => launch::deliver(&self.shared, &self.record, job),
            Err(error) => {
                tracing::error!(container.id = %self.record.id, error = error.chain(), "log is not delivered");
            }
        }
        if !matches!(found, Found::Alive { .. }) {
            self.shared.logs.ended(self.record.id.as_str());
        }
        if let Found::Alive { pid: _, started, .. } = found {
            self.set_shim(shim);
            self.state.standing = Standing::Running;
            self.state.started_ns = i64::try_from(started).unwrap_or(self.state.started_ns);
            for mount in self.record.mounts.iter().filter(|m| !m.name.is_empty()) {
                self.shared.volumes.recover_use(&mount.name, self.record.id.as_str());
            }
            self.start_probe();
        } else if let Some(shim) = shim {
            self.set_shim(Some(shim));
        }
        if matches!(found, Found::Ended(_)) && self.state.started_ns == 0 {
            // It ran and ended before its start was remembered.
            self.state.standing = Standing::Running;
            self.state.started_ns = self.run_began();
        }
        self.quietly(Event::Recover(found)).await;
    }
}

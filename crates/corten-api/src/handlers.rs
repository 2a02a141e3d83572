//! The table of routes. A handler extracts, makes one call, encodes; what it must know of the protocol beyond that
//! is in `stream` and `compat`.

mod archive;
mod build;
mod checkpoints;
mod containers;
mod debug;
mod exec;
mod images;
mod networks;
mod processes;
mod registry;
mod swarm;
mod system;
mod volumes;

use std::pin::Pin;

use http::Method;

use crate::call::{Answer, Call};

/// What happens to a request whose client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disconnect {
    /// It is given up.
    Cancel,
    /// It goes on to its end.
    Detach,
}

type Handled = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) pattern: &'static str,
    pub(crate) disconnect: Disconnect,
    pub(crate) handler: fn(Call) -> Handled,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.pattern)
    }
}

macro_rules! routes {
    ($($method:ident $pattern:literal $disconnect:ident $handler:path;)*) => {
        /// All routes; the first match wins.
        pub(crate) static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            pattern: $pattern,
            disconnect: Disconnect::$disconnect,
            handler: |call| Box::pin($handler(call)),
        }),*];
    };
}

routes! {
    GET "/_ping" Cancel system::ping;
    HEAD "/_ping" Cancel system::ping;
    GET "/version" Cancel system::version;
    GET "/info" Cancel system::info;
    GET "/system/df" Cancel system::disk_usage;
    GET "/events" Cancel system::events;
    GET "/debug/vars" Cancel debug::vars;
    GET "/debug/pprof/" Cancel debug::index;
    GET "/debug/pprof/{profile}" Cancel debug::profile;
    POST "/auth" Cancel registry::login;
    GET "/distribution/{name*}/json" Cancel registry::distribution;
    POST "/session" Cancel build::session;
    POST "/grpc" Cancel build::grpc;

    GET "/containers/json" Cancel containers::list;
    GET "/containers/ps" Cancel containers::list;
    POST "/containers/create" Detach containers::create;
    POST "/containers/prune" Detach containers::prune;
    GET "/containers/{name}/json" Cancel containers::inspect;
    POST "/containers/{name}/start" Detach containers::start;
    GET "/containers/{name}/checkpoints" Cancel checkpoints::list;
    POST "/containers/{name}/checkpoints" Detach checkpoints::create;
    DELETE "/containers/{name}/checkpoints/{checkpoint}" Detach checkpoints::remove;
    POST "/containers/{name}/stop" Detach containers::stop;
    POST "/containers/{name}/restart" Detach containers::restart;
    POST "/containers/{name}/kill" Detach containers::kill;
    POST "/containers/{name}/pause" Detach containers::pause;
    POST "/containers/{name}/unpause" Detach containers::unpause;
    POST "/containers/{name}/rename" Detach containers::rename;
    POST "/containers/{name}/update" Detach containers::update;
    POST "/containers/{name}/wait" Cancel containers::wait;
    DELETE "/containers/{name*}" Detach containers::remove;
    GET "/containers/{name}/changes" Cancel containers::changes;
    GET "/containers/{name}/export" Cancel containers::export;
    POST "/commit" Detach containers::commit;
    GET "/containers/{name}/top" Cancel processes::top;
    GET "/containers/{name}/stats" Cancel processes::stats;
    GET "/containers/{name}/logs" Cancel processes::logs;
    POST "/containers/{name}/resize" Cancel processes::resize;
    POST "/containers/{name}/attach" Cancel processes::attach;
    GET "/containers/{name}/attach/ws" Cancel processes::attach_websocket;
    GET "/containers/{name}/archive" Cancel archive::get;
    HEAD "/containers/{name}/archive" Cancel archive::stat;
    PUT "/containers/{name}/archive" Cancel archive::put;
    POST "/containers/{name}/exec" Detach exec::create;
    POST "/exec/{id}/start" Cancel exec::start;
    POST "/exec/{id}/resize" Cancel exec::resize;
    GET "/exec/{id}/json" Cancel exec::inspect;

    GET "/images/json" Cancel images::list;
    GET "/images/search" Cancel registry::search;
    GET "/images/get" Cancel images::save;
    POST "/images/create" Cancel images::create;
    POST "/images/load" Cancel images::load;
    POST "/images/prune" Detach images::prune;
    GET "/images/{name*}/get" Cancel images::save;
    GET "/images/{name*}/history" Cancel images::history;
    GET "/images/{name*}/json" Cancel images::inspect;
    GET "/images/{name*}/attestations" Cancel images::attestations;
    POST "/images/{name*}/push" Cancel images::push;
    POST "/images/{name*}/tag" Detach images::tag;
    DELETE "/images/{name*}" Detach images::remove;
    POST "/build" Cancel build::build;
    POST "/build/prune" Detach build::prune;
    POST "/build/cancel" Cancel build::cancel;

    GET "/networks" Cancel networks::list;
    GET "/networks/" Cancel networks::list;
    POST "/networks/create" Detach networks::create;
    POST "/networks/prune" Detach networks::prune;
    GET "/networks/{id*}" Cancel networks::inspect;
    POST "/networks/{id*}/connect" Detach networks::connect;
    POST "/networks/{id*}/disconnect" Detach networks::disconnect;
    DELETE "/networks/{id*}" Detach networks::remove;

    GET "/volumes" Cancel volumes::list;
    POST "/volumes/create" Detach volumes::create;
    POST "/volumes/prune" Detach volumes::prune;
    GET "/volumes/{name*}" Cancel volumes::inspect;
    PUT "/volumes/{name*}" Cancel swarm::not_a_manager;
    DELETE "/volumes/{name*}" Detach volumes::remove;

    GET "/plugins" Cancel swarm::no_plugins;
    GET "/plugins/privileges" Cancel swarm::plugins_refused;
    POST "/plugins/{name*}" Cancel swarm::plugins_refused;
    DELETE "/plugins/{name*}" Cancel swarm::plugin_missing;
    GET "/plugins/{name*}/json" Cancel swarm::plugin_missing;
    POST "/swarm/init" Cancel swarm::init_refused;
    POST "/swarm/join" Cancel swarm::init_refused;
    POST "/swarm/leave" Cancel swarm::not_in_a_swarm;
    POST "/swarm/update" Cancel swarm::not_a_manager;
    POST "/swarm/unlock" Cancel swarm::not_in_a_swarm;
    GET "/swarm/unlockkey" Cancel swarm::not_a_manager;
    GET "/swarm" Cancel swarm::not_a_manager;
    GET "/nodes" Cancel swarm::not_a_manager;
    GET "/nodes/{id}" Cancel swarm::not_a_manager;
    DELETE "/nodes/{id}" Cancel swarm::not_a_manager;
    POST "/nodes/{id}/update" Cancel swarm::not_a_manager;
    GET "/services" Cancel swarm::not_a_manager;
    POST "/services/create" Cancel swarm::not_a_manager;
    GET "/services/{id}" Cancel swarm::not_a_manager;
    GET "/services/{id}/logs" Cancel swarm::not_a_manager;
    POST "/services/{id}/update" Cancel swarm::not_a_manager;
    DELETE "/services/{id}" Cancel swarm::not_a_manager;
    GET "/tasks" Cancel swarm::not_a_manager;
    GET "/tasks/{id}" Cancel swarm::not_a_manager;
    GET "/tasks/{id}/logs" Cancel swarm::not_a_manager;
    GET "/secrets" Cancel swarm::not_a_manager;
    POST "/secrets/create" Cancel swarm::not_a_manager;
    GET "/secrets/{id}" Cancel swarm::not_a_manager;
    POST "/secrets/{id}/update" Cancel swarm::not_a_manager;
    DELETE "/secrets/{id}" Cancel swarm::not_a_manager;
    GET "/configs" Cancel swarm::not_a_manager;
    POST "/configs/create" Cancel swarm::not_a_manager;
    GET "/configs/{id}" Cancel swarm::not_a_manager;
    POST "/configs/{id}/update" Cancel swarm::not_a_manager;
    DELETE "/configs/{id}" Cancel swarm::not_a_manager;
}

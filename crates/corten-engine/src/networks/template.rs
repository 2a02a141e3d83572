//! Configuration-only networks: what `--config-only` keeps, and `--config-from` makes a network of. Pure.
//!
//! INVARIANT: a template has no link, takes no subnet and no container; it stays while a network was made from it.

use corten_wire::api::TextMap;
use corten_wire::api::network::{Ipam, IpamConfig, NetworkCreateRequest};
use serde::{Deserialize, Serialize};

use crate::error::{Result, forbidden, not_found};
use crate::record::NetworkEntry;

/// What a configuration-only network holds beside its labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// `EnableIPv4`.
    pub ipv4: bool,
    /// `EnableIPv6`.
    pub ipv6: bool,
    /// Subnets as they were given.
    pub ipam: Ipam,
    /// Options of the driver.
    pub options: TextMap,
}

impl Template {
    /// The subnets, as inspect shows them.
    pub(crate) fn shown(&self) -> Option<Vec<IpamConfig>> {
        let given = self.ipam.config.iter().flatten().filter(|c| !c.subnet.is_empty());
        let given: Vec<IpamConfig> = given.cloned().collect();
        (!given.is_empty()).then_some(given)
    }
}

/// The name of the template that a network is to be made from.
pub(crate) fn source(request: &NetworkCreateRequest) -> Option<&str> {
    request.config_from.as_ref().map(|c| c.network.as_str()).filter(|name| !name.is_empty())
}

/// What a template, and what is made from one, cannot have.
pub(crate) fn validate(request: &NetworkCreateRequest) -> Result<()> {
    let operator = request.ingress || request.internal || request.attachable || !request.scope.is_empty();
    if request.config_only && operator {
        return Err(forbidden(
            "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
        ));
    }
    if source(request).is_none() {
        return Ok(());
    }
    if request.config_only {
        return Err(forbidden("a configuration network cannot depend on another configuration network"));
    }
    let filled = |map: &Option<TextMap>| map.as_ref().is_some_and(|m| !m.is_empty());
    let planned = request.ipam.as_ref().is_some_and(|ipam| {
        !matches!(ipam.driver.as_str(), "" | "default")
            || filled(&ipam.options)
            || ipam.config.as_ref().is_some_and(|c| !c.is_empty())
    });
    let families = request.enable_ipv4 == Some(false) || request.enable_ipv6 == Some(true);
    if planned || families || filled(&request.labels) {
        return Err(forbidden(
            "user specified configurations are not supported if the network depends on a configuration network",
        ));
    }
    if filled(&request.options) {
        return Err(forbidden(
            "network driver options are not supported if the network depends on a configuration network",
        ));
    }
    Ok(())
}

/// Fills a request in from the template that it names.
pub(crate) fn apply(request: &mut NetworkCreateRequest, found: Option<&NetworkEntry>) -> Result<()> {
    let Some(name) = source(request) else { return Ok(()) };
    let found = found.and_then(|entry| Some((entry, entry.template.as_ref()?)));
    let Some((entry, template)) = found else {
        return Err(not_found(format!("configuration network {name:?} does not exist")));
    };
    request.enable_ipv4 = Some(template.ipv4);
    request.enable_ipv6 = Some(template.ipv6);
    request.ipam = Some(template.ipam.clone());
    request.options = Some(template.options.clone());
    request.labels = Some(entry.labels.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use corten_wire::api::network::ConfigReference;

    use super::*;

    fn request(change: impl FnOnce(&mut NetworkCreateRequest)) -> NetworkCreateRequest {
        let mut request = NetworkCreateRequest::default();
        change(&mut request);
        request
    }

    fn from(change: impl FnOnce(&mut NetworkCreateRequest)) -> NetworkCreateRequest {
        let mut request = request(change);
        request.config_from = Some(ConfigReference { network: "t".into() });
        request
    }

    #[test]
    fn what_is_refused() {
        let map = || Some(TextMap::from([("a".to_owned(), "b".to_owned())]));
        let ipam = |ipam: Ipam| from(move |r| r.ipam = Some(ipam));
        let user = "user specified configurations are not supported";
        for (request, want) in [
            (request(|r| r.config_only = true), ""),
            (request(|r| (r.config_only, r.internal) = (true, true)), "Network operator fields"),
            (request(|r| (r.config_only, r.scope) = (true, "local".into())), "Network operator fields"),
            (from(|r| r.config_only = true), "cannot depend on another"),
            (from(|_| ()), ""),
            (from(|r| r.internal = true), ""),
            (from(|r| r.enable_ipv6 = Some(true)), user),
            (from(|r| r.enable_ipv4 = Some(false)), user),
            (from(|r| r.labels = map()), user),
            (ipam(Ipam { driver: "default".into(), ..Ipam::default() }), ""),
            (ipam(Ipam { options: map(), ..Ipam::default() }), user),
            (ipam(Ipam { config: Some(vec![IpamConfig::default()]), ..Ipam::default() }), user),
            (from(|r| r.options = map()), "network driver options are not supported"),
        ] {
            match validate(&request) {
                Ok(()) => assert_eq!(want, "", "{request:?}"),
                Err(error) => assert!(!want.is_empty() && error.to_string().contains(want), "{error}"),
            }
        }
        let error = apply(&mut from(|_| ()), None).unwrap_err();
        assert_eq!(error.to_string(), "configuration network \"t\" does not exist");
    }
}

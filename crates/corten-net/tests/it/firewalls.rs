//! Beside other firewalls: iptables, ufw, firewalld's table, plain nftables.

use std::time::{Duration, Instant};

use corten_net::{HostRules, Net, NetConfig, PortSpec, Protocol};

use crate::world::*;

fn port(host_port: u16, container_port: u16) -> PortSpec {
    PortSpec { container_port, protocol: Protocol::Tcp, host_ip: None, host_ports: (host_port, host_port) }
}

/// Waits until it is so.
fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !test() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}\n{}", sh("nft list ruleset"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open_with(change: impl FnOnce(&mut NetConfig)) -> (Net, corten_net::NetworkRecord) {
    let mut config = config("test");
    change(&mut config);
    let net = Net::open(config).unwrap();
    let bridge = net.ensure_default_network(corten_base::Id::random()).unwrap().unwrap();
    (net, bridge)
}

#[test]
fn docker_user_comes_first() {
    isolated("firewalls::docker_user_comes_first", || {
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        let reached = || ask(Some(&out), "198.51.100.1:8080").is_some();
        assert!(reached());
        // As every guide has it.
        sh("iptables -I DOCKER-USER -i up0 ! -s 192.0.2.0/24 -j DROP");
        assert!(!reached());
        sh("iptables -D DOCKER-USER 1");
        assert!(reached());
        // With a forward chain that drops, too; and whatever somebody does to the chain.
        for harm in [
            "iptables -P FORWARD DROP",
            "iptables -F FORWARD",
            "iptables -F; iptables -X || true",
            "nft flush ruleset",
        ] {
            sh(harm);
            eventually(harm, || {
                sh("iptables -S FORWARD | sed -n 2p")
                    .starts_with("-A FORWARD -m comment --comment corten-test -j DOCKER-USER")
            });
            assert!(reached(), "{harm}");
            sh("iptables -A DOCKER-USER -p tcp -m conntrack --ctorigdstport 8080 -j DROP");
            assert!(!reached(), "{harm}");
            sh("iptables -F DOCKER-USER");
        }
        sh("iptables -A FORWARD -j REJECT");
        eventually("our rules come before the last word", reached);
        sh(
            "iptables -A DOCKER-USER -s 192.0.2.1 -j DROP; iptables -P FORWARD ACCEPT; iptables -D FORWARD -j REJECT",
        );
        net.ensure_no_sandbox(&web.id).unwrap();
        net.retire().unwrap();
        assert!(sh("iptables -S").contains("-A DOCKER-USER -s 192.0.2.1/32 -j DROP"), "users' rules stay");
    });
}

#[test]
fn nothing_is_left_of_an_unused_docker_user() {
    isolated("firewalls::nothing_is_left_of_an_unused_docker_user", || {
        let (net, _) = open();
        assert!(sh("nft list ruleset").contains("DOCKER-USER"));
        net.retire().unwrap();
        assert_eq!(sh("nft list ruleset"), "");
    });
}

/// firewalld's table, as `nft list ruleset` shows it where zones say nothing of bridges.
#[test]
fn firewalld_lets_containers_out() {
    isolated("firewalls::firewalld_lets_containers_out", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, bridge) = open();
        let c = container(&net, &bridge, "c", |_| {});
        let load = "nft add table inet firewalld; nft flush table inet firewalld; \
                    nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; }'; \
                    nft add rule inet firewalld filter_FORWARD ct state established,related accept; \
                    nft add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited";
        for _ in 0..2 {
            sh(load);
            eventually("a way out", || ask(Some(&c.ns), "198.51.100.2:80").is_some());
        }
        net.ensure_no_sandbox(&c.id).unwrap();
        net.retire().unwrap();
        assert!(!sh("nft list ruleset").contains("docker0"));
    });
}

/// The host's rules for itself, in the forms in which they come.
#[test]
fn respect_subjects_published_ports_to_the_hosts_rules() {
    isolated("firewalls::respect_subjects_published_ports_to_the_hosts_rules", || {
        let out = outside();
        let (net, bridge) = open_with(|c| c.host_rules = HostRules::Respect);
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(8080, 80), port(8081, 81)]);
        serve(&web.ns, "0.0.0.0:80");
        serve(&web.ns, "0.0.0.0:81");
        let reached = |port: u16| ask_once(Some(&out), &format!("198.51.100.1:{port}")).is_some();
        assert!(reached(8080) && reached(8081), "no rules, nothing closed");
        let rules: [(&str, &str); 4] = [
            // Plain nftables, with sets and maps.
            (
                "nft 'add table inet filter'; nft 'add set inet filter ok { type inet_service; flags interval; }'; \
                 nft 'add element inet filter ok { 20-22, 8080 }'; nft 'add chain inet filter more'; \
                 nft 'add rule inet filter more tcp dport { 25, 8080 } accept'; \
                 nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'; \
                 nft 'add rule inet filter input ct state vmap { established : accept, invalid : drop }'; \
                 nft 'add rule inet filter input iifname lo accept'; \
                 nft 'add rule inet filter input tcp dport @ok jump more'",
                "nft delete table inet filter",
            ),
            // iptables with its extensions.
            (
                "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; \
                 iptables -A INPUT -p tcp -m multiport --dports 22,8080 -m comment --comment x -j ACCEPT; \
                 iptables -A INPUT -m limit --limit 3/min -j LOG --log-prefix '[no] '; \
                 iptables -A INPUT -p tcp -j REJECT --reject-with tcp-reset",
                "iptables -F INPUT",
            ),
            // A port that is closed, nothing else.
            ("iptables -A INPUT -p tcp --dport 8081 -j DROP", "iptables -F INPUT"),
            ("iptables -A INPUT -s 198.51.100.2 -p tcp --dport 8081 -j REJECT", "iptables -F INPUT"),
        ];
        for (make, unmake) in rules {
            sh(make);
            eventually(make, || !reached(8081));
            eventually(make, || reached(8080));
            // A port published now is under the same rules from its first packet on.
            let late = container(&net, &bridge, "late", |e| e.ports = vec![port(8082, 80)]);
            serve(&late.ns, "0.0.0.0:80");
            assert_eq!(reached(8082), !make.contains("policy drop") && !make.contains("tcp-reset"), "{make}");
            assert!(ask(None, "127.0.0.1:8082").is_some(), "the host itself");
            net.detach(&late.endpoints[0]).unwrap();
            net.ensure_no_sandbox(&late.id).unwrap();
            sh(unmake);
            eventually(unmake, || reached(8081) && reached(8080));
        }
        net.ensure_no_sandbox(&web.id).unwrap();
        net.retire().unwrap();
        assert!(!sh("nft list ruleset").contains("corten"));
    });
}

/// ufw as Debian has it, active.
#[test]
fn ufw_closes_what_it_is_told_to_close() {
    isolated("firewalls::ufw_closes_what_it_is_told_to_close", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        // A ufw of our own: its rules and its switch are files.
        sh(
            "mkdir -p /run/etc-ufw /run/default && cp -a /etc/ufw/. /run/etc-ufw && cp -a /etc/default/. /run/default \
            && mount --bind /run/etc-ufw /etc/ufw && mount --bind /run/default /etc/default \
            && mkdir -p /run/lib-ufw && cp -a /lib/ufw/. /run/lib-ufw",
        );
        sh("sed -i 's/^IPT_MODULES=.*/IPT_MODULES=\"\"/' /etc/default/ufw");
        for (rules, closed) in [(HostRules::Docker, false), (HostRules::Respect, true)] {
            let (net, bridge) = open_with(|c| c.host_rules = rules);
            let web = container(&net, &bridge, "web", |e| e.ports = vec![port(8080, 80), port(8081, 81)]);
            serve(&web.ns, "0.0.0.0:80");
            serve(&web.ns, "0.0.0.0:81");
            sh(
                "ufw --force reset >/dev/null; ufw default deny incoming; ufw allow 8080/tcp; ufw --force enable",
            );
            assert!(sh("ufw status").contains("Status: active"));
            let reached = |port: u16| ask(Some(&out), &format!("198.51.100.1:{port}")).is_some();
            eventually("a closed port", || reached(8081) != closed);
            eventually("an open port", || reached(8080));
            assert!(ask(Some(&web.ns), "198.51.100.2:80").is_some(), "containers get out");
            sh("ufw delete allow 8080/tcp; ufw allow 8081/tcp; ufw reload");
            eventually("another port closed", || reached(8080) != closed);
            eventually("another port open", || reached(8081));
            net.ensure_no_sandbox(&web.id).unwrap();
            net.retire().unwrap();
            sh("ufw --force disable");
        }
    });
}

/// Rules that cannot be followed must not be ignored.
#[test]
fn legacy_rules_are_not_respected_in_silence() {
    isolated("firewalls::legacy_rules_are_not_respected_in_silence", || {
        // A kernel without iptables-legacy has no such rules.
        let made =
            std::process::Command::new("iptables-legacy").args(["-A", "INPUT", "-j", "ACCEPT"]).output();
        if !made.is_ok_and(|o| o.status.success()) {
            return println!("this kernel has no iptables-legacy");
        }
        let mut respectful = config("test");
        respectful.host_rules = HostRules::Respect;
        let error = Net::open(respectful).unwrap_err();
        assert!(error.to_string().contains("iptables-legacy"), "{error}");
        // Beside it everything works.
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        assert!(ask(Some(&out), "198.51.100.1:8080").is_some());
        sh("iptables-legacy -P FORWARD DROP");
        assert!(ask(Some(&out), "198.51.100.1:8080").is_none());
        sh(
            "iptables-legacy -A FORWARD -i docker0 -j ACCEPT; iptables-legacy -A FORWARD -o docker0 -j ACCEPT",
        );
        assert!(ask(Some(&out), "198.51.100.1:8080").is_some());
    });
}

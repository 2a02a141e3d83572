//! How long it takes: figures in the test's output, generous limits in its assertions.

use std::time::{Duration, Instant};

use corten_base::Id;
use corten_net::{PortSpec, Protocol, SandboxSpec};

use crate::world::*;

#[test]
fn attach_publish_detach() {
    isolated("bench::attach_publish_detach", || {
        let (net, bridge) = open();
        let one = net.create_network(network("one")).unwrap();
        for (title, network) in [("default bridge", &bridge), ("user-defined, with names", &one)] {
            let mut times: Vec<[Duration; 4]> = Vec::new();
            for round in 0..12u16 {
                // As between two `run --rm`: time for the pool.
                std::thread::sleep(Duration::from_millis(60));
                let id = Id::random();
                let mut spec = endpoint(&id, network, "c");
                spec.ports = vec![PortSpec {
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host_ip: None,
                    host_ports: (8000 + round, 8000 + round),
                }];
                let start = Instant::now();
                net.ensure_sandbox(SandboxSpec { container: id.clone(), upstreams: Vec::new(), users: None })
                    .unwrap();
                let sandbox = start.elapsed();
                let record = net.attach(spec).unwrap();
                let attach = start.elapsed() - sandbox;
                let middle = Instant::now();
                net.detach(&record).unwrap();
                let detach = middle.elapsed();
                net.ensure_no_sandbox(&id).unwrap();
                let forget = middle.elapsed() - detach;
                times.push([sandbox, attach, detach, forget]);
            }
            let median = |n: usize| {
                let mut column: Vec<Duration> = times.iter().map(|t| t[n]).collect();
                column.sort();
                column[column.len() / 2]
            };
            println!(
                "{title}: sandbox {:?}, attach with a port {:?}, detach {:?}, forget {:?} (medians)",
                median(0),
                median(1),
                median(2),
                median(3)
            );
            assert!(median(0) + median(1) + median(2) + median(3) < Duration::from_millis(60));
        }
    });
}

#[test]
fn a_hundred_containers() {
    isolated("bench::a_hundred_containers", || {
        let (net, bridge) = open();
        let start = Instant::now();
        let containers: Vec<Container> =
            (0..100).map(|n| container(&net, &bridge, &format!("c{n}"), |_| {})).collect();
        let up = start.elapsed();
        let start = Instant::now();
        for c in &containers {
            net.detach(&c.endpoints[0]).unwrap();
            net.ensure_no_sandbox(&c.id).unwrap();
        }
        println!("100 containers: attached in {up:?}, detached in {:?}", start.elapsed());
    });
}

//! Containers.

mod api_socket;
mod copy;
mod create_flags;
mod exec;
mod lifecycle;
mod list;
mod networking;
mod observe;
mod options;
mod run;
mod stats;
mod update;

use crate::commands::{FILTER_HELP, FORMAT_HELP};
use crate::flags::Kind::{Bool, Bytes, Cpus, Env, Filter, Int, Int64, List, SwapBytes, Text, Uint16};
use crate::flags::{Flag, flag, long};
use crate::tree::{Arity, Command, PLAIN};

pub(crate) use lifecycle::each;
pub(crate) use list::{HEADERS, ellipsis, row, short};
pub(crate) use observe::{ago, check_output, save, timestamp};
pub(crate) use run::pull;

const KEYS: Flag = long("detach-keys", Text, "Keys that detach");
const SIG_PROXY: Flag = long("sig-proxy", Bool, "Pass signals on to the process").default("true");
const ONE_OR_MORE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
const STOP: &[Flag] = &[
    flag("signal", 's', Text, "Signal to send"),
    flag("timeout", 't', Int, "Seconds to wait before killing").alias(&["time"]),
];

const BASE: Command = Command { group: "container", ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["run"],
        top: &["run"],
        about: "Create a container from an image and run it",
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        flags: &[
            create_flags::FLAGS,
            &[flag("detach", 'd', Bool, "Run in the background and print the ID"), KEYS, SIG_PROXY],
        ],
        interspersed: false,
        run: |c, f| Box::pin(run::run(c, f)),
        ..BASE
    },
    Command {
        names: &["create"],
        top: &["create"],
        about: "Create a container",
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        flags: &[create_flags::FLAGS],
        interspersed: false,
        run: |c, f| Box::pin(run::create(c, f)),
        ..BASE
    },
    Command {
        names: &["exec"],
        top: &["exec"],
        about: "Run a command in a running container",
        usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
        arity: Arity::AtLeast(2),
        flags: &[&[
            flag("detach", 'd', Bool, "Run in the background"),
            KEYS,
            flag("env", 'e', Env, "Environment variable"),
            long("env-file", List, "File of environment variables"),
            flag("interactive", 'i', Bool, "Keep standard input open"),
            long("privileged", Bool, "Take all restrictions away"),
            flag("tty", 't', Bool, "Allocate a terminal"),
            flag("user", 'u', Text, "User and group: name|uid[:group|gid]"),
            flag("workdir", 'w', Text, "Working directory"),
        ]],
        interspersed: false,
        run: |c, f| Box::pin(exec::exec(c, f)),
        ..BASE
    },
    Command {
        names: &["attach"],
        top: &["attach"],
        about: "Connect this terminal with a running container's streams",
        usage: "[OPTIONS] CONTAINER",
        arity: Arity::Exactly(1),
        flags: &[&[KEYS, long("no-stdin", Bool, "Do not attach standard input"), SIG_PROXY]],
        run: |c, f| Box::pin(run::attach(c, f)),
        ..BASE
    },
    Command {
        names: &["start"],
        top: &["start"],
        about: "Start stopped containers",
        usage: ONE_OR_MORE,
        flags: &[&[
            flag("attach", 'a', Bool, "Attach standard output and error, pass signals on"),
            long("checkpoint", Text, "Start from this checkpoint"),
            long("checkpoint-dir", Text, "Directory of the checkpoint, instead of the container's own"),
            KEYS,
            flag("interactive", 'i', Bool, "Attach standard input"),
            SIG_PROXY.hidden(),
        ]],
        run: |c, f| Box::pin(run::start(c, f)),
        ..BASE
    },
    Command {
        names: &["stop"],
        top: &["stop"],
        about: "Stop running containers",
        usage: ONE_OR_MORE,
        flags: &[STOP],
        run: |c, f| Box::pin(lifecycle::stop(c, f, "stop")),
        ..BASE
    },
    Command {
        names: &["restart"],
        top: &["restart"],
        about: "Stop containers and start them again",
        usage: ONE_OR_MORE,
        flags: &[STOP],
        run: |c, f| Box::pin(lifecycle::stop(c, f, "restart")),
        ..BASE
    },
    Command {
        names: &["kill"],
        top: &["kill"],
        about: "Send a signal to running containers",
        usage: ONE_OR_MORE,
        flags: &[&[flag("signal", 's', Text, "Signal to send")]],
        run: |c, f| Box::pin(lifecycle::kill(c, f)),
        ..BASE
    },
    Command {
        names: &["pause"],
        top: &["pause"],
        about: "Freeze all processes of containers",
        usage: "CONTAINER [CONTAINER...]",
        run: |c, f| Box::pin(lifecycle::simple(c, f, "pause")),
        ..BASE
    },
    Command {
        names: &["unpause"],
        top: &["unpause"],
        about: "Thaw all processes of containers",
        usage: "CONTAINER [CONTAINER...]",
        run: |c, f| Box::pin(lifecycle::simple(c, f, "unpause")),
        ..BASE
    },
    Command {
        names: &["wait"],
        top: &["wait"],
        about: "Wait until containers stop and print their exit codes",
        usage: "CONTAINER [CONTAINER...]",
        run: |c, f| Box::pin(lifecycle::wait(c, f)),
        ..BASE
    },
    Command {
        names: &["rename"],
        top: &["rename"],
        about: "Rename a container",
        usage: "CONTAINER NEW_NAME",
        arity: Arity::Exactly(2),
        run: |c, f| Box::pin(lifecycle::rename(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        top: &["rm"],
        about: "Remove containers",
        usage: ONE_OR_MORE,
        flags: &[&[
            flag("force", 'f', Bool, "Remove a running container too (it is killed)"),
            flag("link", 'l', Bool, "Remove the link"),
            flag("volumes", 'v', Bool, "Remove its anonymous volumes too"),
        ]],
        run: |c, f| Box::pin(lifecycle::remove(c, f)),
        ..BASE
    },
    Command {
        names: &["ls", "list", "ps"],
        top: &["ps"],
        about: "List containers",
        usage: "[OPTIONS]",
        arity: Arity::None,
        flags: &[&[
            flag("all", 'a', Bool, "All containers, not only running ones"),
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, FORMAT_HELP),
            flag("last", 'n', Int, "The last so many, in any state").default("-1"),
            flag("latest", 'l', Bool, "The last one, in any state"),
            long("no-trunc", Bool, "Do not shorten"),
            flag("quiet", 'q', Bool, "Only IDs"),
            flag("size", 's', Bool, "Sizes too"),
        ]],
        run: |c, f| Box::pin(list::list(c, f)),
        ..BASE
    },
    Command {
        names: &["logs"],
        top: &["logs"],
        about: "Show the output of a container",
        usage: "[OPTIONS] CONTAINER",
        arity: Arity::Exactly(1),
        flags: &[&[
            long("details", Bool, "Attributes of the log entries too"),
            flag("follow", 'f', Bool, "Go on as more comes"),
            long("since", Text, "Begin at this time (2013-01-02T13:23:37Z) or so long ago (42m)"),
            flag("tail", 'n', Text, "Number of last lines").default("all"),
            flag("timestamps", 't', Bool, "Time of each line"),
            long("until", Text, "End at this time or so long ago"),
        ]],
        run: |c, f| Box::pin(observe::logs(c, f)),
        ..BASE
    },
    Command {
        names: &["top"],
        top: &["top"],
        about: "Show the processes of a container",
        usage: "CONTAINER [ps OPTIONS]",
        interspersed: false,
        run: |c, f| Box::pin(observe::top(c, f)),
        ..BASE
    },
    Command {
        names: &["diff"],
        top: &["diff"],
        about: "Show what changed in a container's file system",
        usage: "CONTAINER",
        arity: Arity::Exactly(1),
        run: |c, f| Box::pin(observe::diff(c, f)),
        ..BASE
    },
    Command {
        names: &["port"],
        top: &["port"],
        about: "Show the published ports of a container",
        usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
        arity: Arity::Between(1, 2),
        run: |c, f| Box::pin(observe::port(c, f)),
        ..BASE
    },
    Command {
        names: &["stats"],
        top: &["stats"],
        about: "Show what containers use, live",
        usage: "[OPTIONS] [CONTAINER...]",
        arity: Arity::AtLeast(0),
        flags: &[&[
            flag("all", 'a', Bool, "All containers, not only running ones"),
            long("format", Text, FORMAT_HELP),
            long("no-stream", Bool, "Once, not live"),
            long("no-trunc", Bool, "Do not shorten"),
        ]],
        run: |c, f| Box::pin(stats::stats(c, f)),
        ..BASE
    },
    Command {
        names: &["export"],
        top: &["export"],
        about: "Write a container's file system as a tar archive",
        usage: "[OPTIONS] CONTAINER",
        arity: Arity::Exactly(1),
        flags: &[&[flag("output", 'o', Text, "File to write to")]],
        run: |c, f| Box::pin(observe::export(c, f)),
        ..BASE
    },
    Command {
        names: &["commit"],
        top: &["commit"],
        about: "Make an image from a container",
        usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        arity: Arity::Between(1, 2),
        interspersed: false,
        flags: &[&[
            flag("author", 'a', Text, "Author"),
            flag("change", 'c', List, "Dockerfile instruction to apply"),
            flag("message", 'm', Text, "Comment"),
            flag("pause", 'p', Bool, "Pause the container meanwhile").default("true"),
            long("no-pause", Bool, "Do not pause the container").hidden(),
        ]],
        run: |c, f| Box::pin(observe::commit(c, f)),
        ..BASE
    },
    Command {
        names: &["cp"],
        top: &["cp"],
        about: "Copy files between a container and here",
        usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tdocker cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        arity: Arity::Exactly(2),
        flags: &[&[
            flag("archive", 'a', Bool, "Keep owners"),
            flag("follow-link", 'L', Bool, "Follow a link at the source"),
            flag("quiet", 'q', Bool, "No progress"),
        ]],
        run: |c, f| Box::pin(copy::copy(c, f)),
        ..BASE
    },
    Command {
        names: &["update"],
        top: &["update"],
        about: "Change limits of containers",
        usage: ONE_OR_MORE,
        flags: &[&[
            long("blkio-weight", Uint16, "Relative block I/O weight"),
            long("cpu-period", Int64, "Period of the CPU quota in microseconds"),
            long("cpu-quota", Int64, "CPU time per period in microseconds"),
            long("cpu-rt-period", Int64, "Real-time CPU period in microseconds"),
            long("cpu-rt-runtime", Int64, "Real-time CPU time in microseconds"),
            flag("cpu-shares", 'c', Int64, "Relative CPU weight"),
            long("cpus", Cpus, "How many CPUs' worth of time"),
            long("cpuset-cpus", Text, "CPUs that may be used"),
            long("cpuset-mems", Text, "Memory nodes that may be used"),
            long("kernel-memory", Bytes, "Kernel memory limit").hidden(),
            flag("memory", 'm', Bytes, "Memory limit"),
            long("memory-reservation", Bytes, "Soft memory limit"),
            long("memory-swap", SwapBytes, "Limit of memory and swap together"),
            long("pids-limit", Int64, "Number of processes"),
            long("restart", Text, "Restart policy"),
            long("publish-add", List, "Publish a port: [ip:][host:]container[/protocol]"),
            long("publish-rm", List, "Publish a port no longer: [ip:][host:]container[/protocol]"),
            long("net-rate-in", Text, "Bandwidth to the container: 10mbit; 0 for no limit"),
            long("net-rate-out", Text, "Bandwidth from the container: 10mbit; 0 for no limit"),
        ]],
        run: |c, f| Box::pin(update::update(c, f)),
        ..BASE
    },
];

//! What happens to a guest while it runs.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use imgbuild_bundle::ROOT;
use imgbuild_serve::Access;
use serde_json::{Value, json};

use super::{Fault, SILENCE};
use crate::{Error, Phase, error::failed, network::netdev, way::Stage};

/// How long QEMU's monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a boot server that stops gives the node to take what it was sent.
const GRACE: Duration = Duration::from_secs(30);
/// The filter that lets nothing through while it is on.
const FILTER: &str = "silence";

/// What is to happen, and what has.
pub(crate) struct Live {
    fault: Option<Fault>,
    began: Instant,
    monitor: Option<Monitor>,
    is_silent: bool,
    /// When netboot-init met the silence.
    silent_since: Option<Instant>,
    stopping: Option<JoinHandle<()>>,
    /// What has taken place, or why it could not.
    took_place: Option<Result<String, String>>,
}

impl Live {
    pub(crate) fn new(fault: Option<Fault>) -> Result<Self, Error> {
        let monitor = match fault {
            Some(Fault::SilentDhcp) => Some(Monitor::new().map_err(failed("make", "QEMU's monitor"))?),
            _ => None,
        };
        let began = Instant::now();
        Ok(Self { fault, began, monitor, is_silent: false, silent_since: None, stopping: None, took_place: None })
    }

    /// What QEMU needs for it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            self.fault.map(Fault::qemu).unwrap_or_default().iter().map(|word| (*word).to_owned()).collect();
        if let Some(theirs) = self.monitor.as_ref().and_then(|monitor| monitor.theirs.as_ref()) {
            // What the network would bring the guest, or it would send, goes nowhere; the link stays up.
            let filter =
                format!("filter-redirector,id={FILTER},netdev={},queue=all,outdev=nowhere,status=off", netdev(0));
            let monitor = format!("socket,id=monitor,fd={}", theirs.as_raw_fd());
            arguments.extend(["-chardev", "null,id=nowhere", "-object", &filter].map(str::to_owned));
            arguments.extend(["-chardev", &monitor, "-mon", "chardev=monitor,mode=control"].map(str::to_owned));
        }
        arguments
    }

    /// To be called when QEMU runs: its ends of what it has inherited are its own now.
    pub(crate) fn started(&mut self) {
        self.began = Instant::now();
        if let Some(monitor) = &mut self.monitor {
            monitor.theirs = None;
        }
    }

    /// To be called again and again while the guest runs.
    pub(crate) fn look(&mut self, phase: Phase, stage: &Stage) {
        match self.fault {
            Some(Fault::SilentDhcp) => self.keep_silent(phase),
            Some(Fault::ServerGone) => self.stop_server(stage),
            _ => {}
        }
    }

    /// What has taken place, or why it could not; none if it was not its time.
    pub(crate) fn took_place(self) -> Option<Result<String, String>> {
        self.took_place
    }

    /// From the kernel's start, when firmware and iPXE have done with the network and netboot-init has not yet begun; the time
    /// counts from when that runs.
    fn keep_silent(&mut self, phase: Phase) {
        let begins = !self.is_silent && phase >= Phase::Kernel;
        if self.took_place.is_some() || !(begins || self.is_silent) {
            return;
        }
        if phase >= Phase::NetbootInit {
            self.silent_since.get_or_insert_with(Instant::now);
        }
        let ends = self.is_silent && self.silent_since.is_some_and(|since| since.elapsed() >= SILENCE);
        let Some(monitor) = self.monitor.as_mut().filter(|_| begins || ends) else { return };
        let status = if begins { "on" } else { "off" };
        let arguments = json!({"path": format!("/objects/{FILTER}"), "property": "status", "value": status});
        match monitor.run("qom-set", &arguments) {
            Err(error) => self.took_place = Some(Err(format!("the network could not be silenced: {error}"))),
            Ok(()) if ends => self.took_place = Some(Ok(format!("silence for {} s", SILENCE.as_secs()))),
            Ok(()) => self.is_silent = true,
        }
    }

    fn stop_server(&mut self, stage: &Stage) {
        if self.took_place.is_some() {
            return;
        }
        if self.stopping.as_ref().is_some_and(JoinHandle::is_finished) {
            let seconds = self.began.elapsed().as_secs_f64();
            self.took_place = Some(Ok(format!("the boot server was gone {seconds:.1} s after power on")));
        } else if self.stopping.is_none() && stage.requests.lock().is_ok_and(|all| all.iter().any(is_whole_root)) {
            // The node still has to take what is on its way: not while the guest's words wait to be read.
            self.stopping = stage.take_server().map(|server| thread::spawn(move || server.stop(GRACE)));
        }
    }
}

/// Whether a node has got the end of its root by this request.
fn is_whole_root(access: &Access) -> bool {
    is_root(access) && matches!(access.status, 200 | 206) && access.sent > 0 && access.sent == access.length
}

/// Whether somebody asked for the root's content.
pub(crate) fn is_root(access: &Access) -> bool {
    access.method == "GET" && access.path.rsplit('/').next() == Some(ROOT)
}

/// QEMU's monitor (QMP, `docs/interop/qmp-spec.txt` in QEMU).
struct Monitor {
    ours: BufReader<UnixStream>,
    theirs: Option<OwnedFd>,
    is_open: bool,
}

impl Monitor {
    fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // QEMU inherits this end by its number; std opens everything close-on-exec.
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { ours: BufReader::new(ours), theirs: Some(theirs.into()), is_open: false })
    }

    fn run(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        if !self.is_open {
            self.say(&json!({"execute": "qmp_capabilities"}))?;
            self.is_open = true;
        }
        self.say(&json!({"execute": command, "arguments": arguments}))
    }

    /// Says one thing and reads up to the answer: in between may be a greeting, and events.
    fn say(&mut self, command: &Value) -> io::Result<()> {
        self.ours.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.ours.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_is_opened_once_and_events_are_passed_over() {
        let mut monitor = Monitor::new().unwrap();
        let theirs = UnixStream::from(monitor.theirs.take().unwrap());
        let qemu = thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut said = Vec::new();
            let mut out = &theirs;
            out.write_all(b"{\"QMP\": {}}\n").unwrap();
            for answer in ["{\"return\": {}}\n", "{\"event\": \"RESUME\"}\n{\"return\": {}}\n", "{\"error\": {}}\n"] {
                said.push(lines.next().unwrap().unwrap());
                out.write_all(answer.as_bytes()).unwrap();
            }
            said
        });
        monitor.run("cont", &json!({})).unwrap();
        assert!(monitor.run("frob", &json!({})).is_err());
        let said = qemu.join().unwrap();
        let executed: Vec<Value> =
            said.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["execute"].clone()).collect();
        assert_eq!(executed, ["qmp_capabilities", "cont", "frob"]);
    }
}

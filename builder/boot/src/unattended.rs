//! A guest that nobody sits at: its console and the probe's port are read until the probe is done or something ends it.

use std::{
    ffi::OsString,
    io::{Read, Write},
    net::Shutdown,
    os::{fd::AsRawFd, unix::net::UnixStream},
    process::Stdio,
    sync::{
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use imgbuild_progress::Progress;
use imgbuild_serve::Access;

use crate::{
    Accelerator, Cause, Error, Failure, Phase, Report, TestOptions,
    advice::{Known, advice},
    error::failed,
    events,
    fault::live::Live,
    observed::{News, Observed},
    qemu::Qemu,
    results::Results,
    segment::PORT,
    way::Stage,
};

/// How long a panicking kernel may go on printing.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Under KVM, a guest that says nothing for so long before netboot-init runs has been hung by KVM.
pub(crate) const KVM_SILENCE: Duration = Duration::from_secs(60);
/// How long files may take that the probe sends after its verdict, and how long it may be silent meanwhile.
const FILES: Duration = Duration::from_secs(90);
const FILES_SILENCE: Duration = Duration::from_secs(30);
/// How often the clock and the user's interruption are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What came of one run.
pub(crate) struct Ended {
    pub(crate) report: Report,
    /// Why the report says nothing of the image, if it does not.
    pub(crate) spoilt: Option<Spoilt>,
    /// What the guest asked the boot server for.
    pub(crate) requests: Vec<Access>,
    /// What a scenario did while it ran.
    pub(crate) took_place: Option<Result<String, String>>,
}

/// What a host does to a guest.
pub(crate) enum Spoilt {
    /// Under KVM, it fell silent before any program of ours ran; its last line.
    Hung(String),
    /// Under emulation, its kernel met a breakpoint that nobody set, and panicked; what it said of it.
    Misemulated(String),
}

/// What is run, and how.
pub(crate) struct Run<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) options: &'a TestOptions,
    pub(crate) accelerator: Accelerator,
    /// How many tests the probe was told to run.
    pub(crate) expected: usize,
    pub(crate) results: &'a Results,
    pub(crate) progress: &'a dyn Progress,
}

impl Run<'_> {
    pub(crate) fn run(&self, qemu: &Qemu) -> Result<Ended, Error> {
        let manifest = self.stage.bundle.manifest();
        let task = format!("boot {} {} over {}", manifest.name, manifest.version, self.options.path);
        self.progress.started(&task, None);
        let (ours, theirs) = UnixStream::pair().map_err(failed("connect to the guest's", PORT))?;
        // QEMU inherits this end by its number; std opens everything close-on-exec.
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
            .map_err(|error| failed("connect to the guest's", PORT)(error.into()))?;
        let mut arguments = self.options.machine.arguments(qemu.arch, self.accelerator, self.stage);
        arguments.extend(
            [
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
                "-device",
                "virtio-serial-pci",
                "-chardev",
                &format!("socket,id=probe,fd={}", theirs.as_raw_fd()),
                "-device",
                &format!("virtserialport,chardev=probe,name={PORT}"),
            ]
            .map(OsString::from),
        );
        let mut live = Live::new(self.options.fault)?;
        arguments.extend(live.arguments().into_iter().map(OsString::from));
        let mut observed = Observed::begin(self.results, self.progress, &task, self.expected)?;
        let mut guest = qemu.start(&arguments, [Stdio::null(), Stdio::piped(), Stdio::piped()])?;
        drop(theirs);
        live.started();
        let (send, news) = mpsc::channel();
        let mut readers = Vec::new();
        if let Some(stdout) = guest.child.stdout.take() {
            let send = send.clone();
            readers.push(thread::spawn(move || pump(stdout, &send, News::Console)));
        }
        if let Some(stderr) = guest.child.stderr.take() {
            let send = send.clone();
            let text = |bytes: Vec<u8>| News::Qemu(String::from_utf8_lossy(&bytes).into_owned());
            readers.push(thread::spawn(move || pump(stderr, &send, text)));
        }
        let port = ours.try_clone().map_err(failed("read the guest's", PORT))?;
        readers.push(thread::spawn(move || {
            // QEMU's end of the stream is told by its other streams, too.
            let _ = events::read(port, |line, said| drop(send.send(News::Probe(line, said))));
        }));

        let status = loop {
            match news.recv_timeout(TICK) {
                Ok(news) => {
                    if observed.learn(news)? == Some(Phase::Ipxe) {
                        self.stage.ipxe_runs()?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Some(guest.wait()?),
            }
            live.look(observed.phase(), self.stage);
            if self.is_over(&observed) {
                break None;
            }
            if self.options.interrupted.load(Ordering::Relaxed) {
                guest.stop();
                return Err(Error::Interrupted);
            }
            // With the verdict there is no hurry.
            if !observed.is_done() && (self.kvm_hangs(&observed) || observed.elapsed() > self.options.timeout) {
                break None;
            }
        };
        let hung = self
            .kvm_hangs(&observed)
            .then(|| Spoilt::Hung(observed.console.last().unwrap_or("it said nothing").to_owned()));
        let timed_out = status.is_none() && !observed.is_done() && observed.panicking().is_none();
        guest.stop();
        let _ = ours.shutdown(Shutdown::Both);
        for reader in readers {
            let _ = reader.join();
        }
        // What was under way when it ended.
        while let Ok(news) = news.try_recv() {
            observed.learn(news)?;
        }
        observed.console.finish(observed.elapsed());
        let spoilt = hung.or_else(|| self.misemulated(&observed).map(Spoilt::Misemulated));
        let failure = observed.judge(status, timed_out.then_some(self.options.timeout));
        self.write_requests()?;
        if observed.awaits_files().is_some() {
            self.progress.note("the journal is not whole: the probe did not send all of it".to_owned());
        }
        let outcome = match &failure {
            None => format!("{} tests passed", observed.tests.len()),
            Some(cause) => format!("failed: {cause}"),
        };
        self.progress.finished(&task, outcome);
        let requests = self.stage.requests.lock().map(|all| all.clone()).unwrap_or_default();
        Ok(Ended { report: self.report(observed, failure), spoilt, requests, took_place: live.took_place() })
    }

    /// Whether all has come that was to come, or nothing more will.
    fn is_over(&self, observed: &Observed<'_>) -> bool {
        if observed.panicking().is_some_and(|since| since > LAST_WORDS) {
            return true;
        }
        match observed.awaits_files() {
            Some(since) => since > FILES || observed.probe_silence() > FILES_SILENCE,
            None => observed.is_done(),
        }
    }

    /// Whether the guest is silent for no reason of its own.
    fn kvm_hangs(&self, observed: &Observed<'_>) -> bool {
        self.accelerator == Accelerator::Kvm
            && observed.panicking().is_none()
            && observed.phase() < Phase::NetbootInit
            && observed.silence() > KVM_SILENCE
    }

    /// What the kernel said of it, if it panicked over how QEMU emulates it.
    fn misemulated(&self, observed: &Observed<'_>) -> Option<String> {
        observed.panicking().filter(|_| self.accelerator == Accelerator::Tcg)?;
        observed.console.stray_breakpoint().map(str::to_owned)
    }

    fn report(&self, mut observed: Observed<'_>, cause: Option<Cause>) -> Report {
        let manifest = self.stage.bundle.manifest();
        let seconds = observed.elapsed().as_secs_f64();
        let timeline = self.stage.requests.lock().map(|requests| observed.timeline(&requests, seconds));
        let failure = cause.map(|cause| self.failure(&observed, cause));
        observed.tests.sort_by_key(|test| test.index);
        Report {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            path: self.options.path,
            accelerator: self.accelerator,
            memory: self.options.machine.memory(manifest),
            fault: None,
            reached: observed.console.marks().to_vec(),
            timeline: timeline.unwrap_or_default(),
            failure,
            seconds,
            tests: observed.tests,
            facts: observed.facts,
            results: self.results.path.clone(),
        }
    }

    fn failure(&self, observed: &Observed<'_>, cause: Cause) -> Failure {
        let (phase, console) = (observed.phase(), observed.console.tail());
        let last_request =
            self.stage.requests.lock().ok().and_then(|r| r.last().map(|r| format!("{} {}", r.status, r.path)));
        let known = Known {
            phase,
            step: observed.console.step(),
            console: &console,
            last_request,
            tests: &observed.tests,
            expected: self.expected,
            journal: observed.has_journal(),
        };
        Failure { phase, advice: advice(&cause, &known), refused: self.refused(), console, cause }
    }

    /// What the boot server did not have.
    fn refused(&self) -> Vec<String> {
        let Ok(requests) = self.stage.requests.lock() else { return Vec::new() };
        requests.iter().filter(|request| request.status >= 400).map(|r| format!("{} {}", r.status, r.path)).collect()
    }

    fn write_requests(&self) -> Result<(), Error> {
        let mut file = self.results.create("requests.log")?;
        let Ok(requests) = self.stage.requests.lock() else { return Ok(()) };
        for r in requests.iter() {
            let seconds = r.took.as_secs_f64();
            writeln!(file, "{} {} {} {} of {} bytes in {seconds:.2} s", r.method, r.path, r.status, r.sent, r.length)
                .map_err(failed("write", self.results.path.join("requests.log")))?;
        }
        Ok(())
    }
}

/// Hands on what a stream brings until it ends.
fn pump(mut stream: impl Read, send: &Sender<News>, news: impl Fn(Vec<u8>) -> News) {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if send.send(news(buffer.get(..read).unwrap_or_default().to_vec())).is_err() {
            return;
        }
    }
}

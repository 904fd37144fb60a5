//! `imgbuild test`: boots a bundle unattended and believes nobody but the probe.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use imgbuild_bundle::{Bundle, KERNEL};
use imgbuild_progress::Progress;
use serde_json::{Value, json};

use crate::{
    Accelerator, BootPath, Cause, Error, Failure, Machine, Phase, Report, Source, TestResult, accelerator,
    console::Console,
    error::failed,
    events::{self, Said},
    firmware::can_boot,
    interactive::CONSOLE,
    qemu::Qemu,
    report::advice,
    segment::{self, PORT, Spec},
    way::{self, Stage},
};

/// How long a panicking kernel may go on printing.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Under KVM, a guest that says nothing for so long before netboot-init runs has been hung by KVM.
const KVM_SILENCE: Duration = Duration::from_secs(60);
/// How often the clock and the user's interruption are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How a test is run.
#[derive(Debug, Clone)]
pub struct TestOptions {
    /// How the guest gets at its kernel.
    pub path: BootPath,
    /// The machine.
    pub machine: Machine,
    /// When to give up, from power on.
    pub timeout: Duration,
    /// How long a test that does not hold yet is tried again, from the probe's start; by default 90 s with KVM, 300 s
    /// without.
    pub patience: Option<Duration>,
    /// Where to keep logs and results; by default a temporary folder, which stays if the test fails.
    pub results: Option<PathBuf>,
    /// More tests than the manifest has, as they would stand in a recipe.
    pub tests: Vec<Value>,
    /// Set by the caller's signal handler to stop the guest and clean up.
    pub interrupted: Arc<AtomicBool>,
}

/// What every image is tested for, whatever its recipe says.
fn defaults() -> Vec<Value> {
    vec![
        json!({"name": "the root is an overlay", "mount": "/", "fstype": "overlay"}),
        json!({"name": "the system has booted", "unit": "basic.target", "state": "active"}),
    ]
}

/// Boots what the source means and lets the probe check the manifest's tests.
///
/// The test has passed only if the probe reported over virtio-serial that each of them held. What is on the console,
/// QEMU's status and silence are never a success.
///
/// # Errors
/// When nothing could be booted, or [`Error::Interrupted`]. A boot that failed is a [`Report`].
pub fn test(source: &Source, options: &TestOptions, progress: &dyn Progress) -> Result<Report, Error> {
    test_with(source, options, netboot_programs::PROBE, progress)
}

/// The same with another probe.
pub(crate) fn test_with(
    source: &Source,
    options: &TestOptions,
    probe: &[u8],
    progress: &dyn Progress,
) -> Result<Report, Error> {
    // First of all: whatever goes wrong, no report of an earlier run is there to be taken for this one's.
    let results = Results::new(options.results.as_ref())?;
    let path = options.path;
    can_boot(path).map_err(|missing| Error::Missing { path, missing })?;
    let bundle = way::bundle(source)?;
    let qemu = Qemu::find(&bundle.manifest().arch)?;
    if bundle.manifest().kernel.is_none() {
        return Err(way::no_kernel(&bundle));
    }
    let machine = &options.machine;
    let accelerator = accelerator::choose(&qemu, &bundle.file(KERNEL), machine.cpus, &machine.cache, progress);
    let attempt = Attempt { qemu: &qemu, bundle: &bundle, source, options, probe, results: &results, progress };
    let mut ended = attempt.run(accelerator)?;
    if let Some(last) = ended.kvm_hung {
        let reason = format!("KVM passed its test and then hung a guest for {} s ({last})", KVM_SILENCE.as_secs());
        accelerator::distrust(&qemu, &reason, &machine.cache, progress);
        progress.note(format!("{reason}; again with emulation, which is slow"));
        ended = attempt.run(Accelerator::Tcg)?;
    }
    results.keep(&ended.report)?;
    Ok(ended.report)
}

/// One test, however often it has to be run.
struct Attempt<'a> {
    qemu: &'a Qemu,
    bundle: &'a Bundle,
    source: &'a Source,
    options: &'a TestOptions,
    probe: &'a [u8],
    results: &'a Results,
    progress: &'a dyn Progress,
}

impl Attempt<'_> {
    fn run(&self, accelerator: Accelerator) -> Result<Ended, Error> {
        let Self { qemu, bundle, source, options, probe, results, progress } = *self;
        let mut tests = defaults();
        tests.extend(bundle.manifest().tests.iter().cloned());
        tests.extend(options.tests.iter().cloned());
        let patience = options.patience.unwrap_or(match accelerator {
            Accelerator::Kvm => Duration::from_secs(90),
            Accelerator::Tcg => Duration::from_secs(300),
        });
        let extra = segment::probe(probe, &Spec { schema: 1, tests: &tests, deadline: patience.as_secs() })?;
        // A node that fails goes down at once instead of trying again for ever.
        let mut append = options.machine.append.clone();
        append.extend(["netboot.on_failure=poweroff", "panic=-1", CONSOLE].map(str::to_owned));
        append.extend(accelerator.parameter().map(str::to_owned));
        let stage = Stage::new(source, options.path, Some(&extra), &append, progress)?;
        let run = Run { stage: &stage, options, accelerator, expected: tests.len(), results, progress };
        run.run(qemu)
    }
}

/// What came of one run.
struct Ended {
    report: Report,
    /// The guest's last line, if it fell silent before any program of ours ran, under KVM.
    kvm_hung: Option<String>,
}

/// The report's name in the folder for logs.
const REPORT: &str = "report.json";

/// The folder for logs.
struct Results {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Results {
    fn new(wanted: Option<&PathBuf>) -> Result<Self, Error> {
        if let Some(path) = wanted {
            fs::create_dir_all(path).map_err(failed("make the folder", path))?;
            let old = path.join(REPORT);
            match fs::remove_file(&old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove the earlier", old)(error));
                }
                _ => {}
            }
            return Ok(Self { path: path.clone(), temporary: None });
        }
        let folder = tempfile::Builder::new()
            .prefix("imgbuild-test-")
            .tempdir()
            .map_err(failed("make a folder in", std::env::temp_dir()))?;
        Ok(Self { path: folder.path().to_owned(), temporary: Some(folder) })
    }

    fn create(&self, name: &str) -> Result<fs::File, Error> {
        let path = self.path.join(name);
        fs::File::create(&path).map_err(failed("write", path))
    }

    fn keep(self, report: &Report) -> Result<(), Error> {
        let path = self.path.join(REPORT);
        let mut text = serde_json::to_string_pretty(report)
            .map_err(|error| failed("write", &path)(std::io::Error::from(error)))?;
        text.push('\n');
        fs::write(&path, text).map_err(failed("write", path))?;
        if let Some(folder) = self.temporary
            && !report.passed()
        {
            // Its path is in the report.
            let _ = folder.keep();
        }
        Ok(())
    }
}

/// What reaches us from the guest and from QEMU.
enum News {
    Console(Vec<u8>),
    Qemu(String),
    Probe(String, Result<Said, String>),
}

struct Run<'a> {
    stage: &'a Stage,
    options: &'a TestOptions,
    accelerator: Accelerator,
    /// How many tests the probe was told to run.
    expected: usize,
    results: &'a Results,
    progress: &'a dyn Progress,
}

/// What has been learned so far.
struct State {
    began: Instant,
    console: Console,
    log: fs::File,
    heard: fs::File,
    tests: Vec<TestResult>,
    facts: BTreeMap<String, Value>,
    odd: Vec<String>,
    done: Option<u64>,
    qemu: String,
    panicked: Option<Instant>,
    /// When the guest was heard last.
    heard_at: Instant,
}

impl Run<'_> {
    fn run(&self, qemu: &Qemu) -> Result<Ended, Error> {
        let manifest = self.stage.bundle.manifest();
        let task = format!("boot {} {} over {}", manifest.name, manifest.version, self.options.path);
        self.progress.started(&task, None);
        let (ours, theirs) = UnixStream::pair().map_err(failed("connect to the guest's", PORT))?;
        // QEMU inherits this end by its number; std opens everything close-on-exec.
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
            .map_err(|error| failed("connect to the guest's", PORT)(error.into()))?;
        let mut arguments = self.options.machine.arguments(self.accelerator, self.stage);
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
        let mut state = State {
            began: Instant::now(),
            console: Console::new(),
            log: self.results.create("console.log")?,
            heard: self.results.create("probe.jsonl")?,
            tests: Vec::new(),
            facts: BTreeMap::new(),
            odd: Vec::new(),
            done: None,
            qemu: String::new(),
            panicked: None,
            heard_at: Instant::now(),
        };
        let mut guest = qemu.start(&arguments, [Stdio::null(), Stdio::piped(), Stdio::piped()])?;
        drop(theirs);
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
                Ok(news) => self.learn(&mut state, news)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Some(guest.wait()?),
            }
            if state.done.is_some() || state.panicked.is_some_and(|at| at.elapsed() > LAST_WORDS) {
                break None;
            }
            if self.options.interrupted.load(Ordering::Relaxed) {
                guest.stop();
                return Err(Error::Interrupted);
            }
            if self.kvm_hangs(&state) || state.began.elapsed() > self.options.timeout {
                break None;
            }
        };
        let kvm_hung =
            self.kvm_hangs(&state).then(|| state.console.tail().pop().unwrap_or_else(|| "it said nothing".to_owned()));
        let timed_out = status.is_none() && state.done.is_none() && state.panicked.is_none();
        guest.stop();
        let _ = ours.shutdown(Shutdown::Both);
        for reader in readers {
            let _ = reader.join();
        }
        // What was under way when it ended.
        while let Ok(news) = news.try_recv() {
            self.learn(&mut state, news)?;
        }
        state.console.finish(state.began.elapsed());
        let failure = self.judge(&state, status, timed_out);
        self.write_requests()?;
        let outcome = match &failure {
            None => format!("{} tests passed", state.tests.len()),
            Some(cause) => format!("failed: {cause}"),
        };
        self.progress.finished(&task, outcome);
        Ok(Ended { report: self.report(state, failure), kvm_hung })
    }

    /// Whether the guest is silent for no reason of its own.
    fn kvm_hangs(&self, state: &State) -> bool {
        self.accelerator == Accelerator::Kvm
            && state.panicked.is_none()
            && state.console.phase() < Phase::NetbootInit
            && state.heard_at.elapsed() > KVM_SILENCE
    }

    fn learn(&self, state: &mut State, news: News) -> Result<(), Error> {
        let at = state.began.elapsed();
        state.heard_at = Instant::now();
        let before = state.console.phase();
        match news {
            News::Console(bytes) => {
                state.log.write_all(&bytes).map_err(failed("write", self.results.path.join("console.log")))?;
                state.console.take(&bytes, at, |line| self.progress.detail(format!("console: {line}")));
                if state.panicked.is_none() && state.console.panic().is_some() {
                    state.panicked = Some(Instant::now());
                }
            }
            News::Qemu(text) => {
                self.progress.detail(format!("QEMU: {}", text.trim_end()));
                state.qemu.push_str(&text);
            }
            News::Probe(line, said) => {
                writeln!(state.heard, "{line}").map_err(failed("write", self.results.path.join("probe.jsonl")))?;
                state.console.reach(Phase::Probe, at);
                self.hear(state, said, at);
            }
        }
        let after = state.console.phase();
        if after != before {
            if after == Phase::Ipxe {
                self.stage.ipxe_runs()?;
            }
            self.progress.note(format!("{:6.1} s  {after}", at.as_secs_f64()));
        }
        Ok(())
    }

    fn hear(&self, state: &mut State, said: Result<Said, String>, at: Duration) {
        match said {
            _ if state.done.is_some() => state.odd.push("it went on after it had finished".to_owned()),
            Ok(Said::Hello {}) => {}
            Ok(Said::Fact { name, value }) => drop(state.facts.insert(name, value)),
            Ok(Said::Result(result)) => {
                let verdict = if result.passed { "ok" } else { "failed" };
                self.progress.note(format!("{:6.1} s  {verdict}: {}", at.as_secs_f64(), result.name));
                state.tests.push(result);
            }
            Ok(Said::Done { failed }) => {
                state.done = Some(failed);
                state.console.reach(Phase::Done, at);
            }
            Err(reason) => state.odd.push(format!("a line that is not its own: {reason}")),
        }
    }

    /// The reason why this is no success; none if it is one.
    fn judge(&self, state: &State, status: Option<std::process::ExitStatus>, timed_out: bool) -> Option<Cause> {
        let failed = state.tests.iter().filter(|test| !test.passed).count();
        if let Some(counted) = state.done {
            let odd = |reason: String| Some(Cause::Probe { reason });
            return if let Some(reason) = state.odd.first() {
                odd(reason.clone())
            } else if !self.complete(&state.tests) {
                odd(format!("{} results for {} tests", state.tests.len(), self.expected))
            } else if counted != failed as u64 {
                odd(format!("it counts {counted} failed tests and reported {failed}"))
            } else {
                (failed > 0).then_some(Cause::Tests { failed })
            };
        }
        if let Some(line) = state.console.panic() {
            return Some(Cause::Panic { line: line.to_owned() });
        }
        if timed_out {
            return Some(Cause::Timeout { seconds: self.options.timeout.as_secs() });
        }
        let status = status.map_or_else(|| "stopped".to_owned(), |status| status.to_string());
        let said = state.qemu.trim();
        Some(Cause::Ended { status: if said.is_empty() { status } else { format!("{status}: {said}") } })
    }

    /// Whether each test that the probe was told has one result.
    fn complete(&self, results: &[TestResult]) -> bool {
        let indices: BTreeSet<usize> = results.iter().map(|result| result.index).collect();
        results.len() == self.expected && indices.into_iter().eq(0..self.expected)
    }

    fn report(&self, mut state: State, cause: Option<Cause>) -> Report {
        let manifest = self.stage.bundle.manifest();
        let phase = state.console.phase();
        state.tests.sort_by_key(|test| test.index);
        Report {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            path: self.options.path,
            accelerator: self.accelerator,
            memory: self.options.machine.memory(manifest),
            tests: state.tests,
            facts: state.facts,
            timeline: state.console.marks().to_vec(),
            failure: cause.map(|cause| Failure {
                phase,
                advice: advice(&cause, phase, state.console.step()),
                refused: self.refused(),
                console: state.console.tail(),
                cause,
            }),
            seconds: state.began.elapsed().as_secs_f64(),
            results: self.results.path.clone(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_an_earlier_run_is_gone_before_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        fs::create_dir(&results).unwrap();
        fs::write(results.join(REPORT), "{}").unwrap();
        fs::write(results.join("mine"), "").unwrap();
        let options = TestOptions {
            path: BootPath::Direct,
            machine: Machine {
                memory: None,
                cpus: 1,
                append: Vec::new(),
                qemu: Vec::new(),
                cache: folder.path().join("kvm"),
            },
            timeout: Duration::from_secs(1),
            patience: None,
            results: Some(results.clone()),
            tests: Vec::new(),
            interrupted: Arc::default(),
        };
        let source = Source::Bundle(folder.path().join("no-bundle"));
        assert!(test_with(&source, &options, b"", &imgbuild_progress::Silent).is_err());
        assert!(!results.join(REPORT).exists());
        assert!(results.join("mine").exists());
    }
}

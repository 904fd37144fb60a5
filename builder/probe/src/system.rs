//! What the checks need of the system; a trait, so that they can be tested without one.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::speed::Speed;

/// Bytes of a command's output that are kept.
const OUTPUT: usize = 256 * 1024;
/// How long the output of a command that has ended is waited for: what it left in the background may hold it open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of a line that are looked at; the rest counts as the next line.
const LINE: u64 = 64 * 1024;
/// Lines that wait to be looked at.
const WAITING_LINES: usize = 256;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// None when it was killed.
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Whether its time was over.
    pub(crate) timed_out: bool,
}

/// The machine's memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// What programs can still get.
    pub(crate) available: u64,
}

/// The system that is checked.
pub(crate) trait System {
    /// The folder that its files, `/proc` and `/sys` are in.
    fn root(&self) -> &Path;
    /// Runs a command, for so long at most.
    fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output>;
    /// Runs a command, and hands on each line of its standard output; the output that is returned lacks them.
    fn scan(&self, command: &[&str], patience: Duration, each: &mut dyn FnMut(&str)) -> io::Result<Output>;
    /// `/proc/self/mountinfo`.
    fn mountinfo(&self) -> io::Result<String>;
    /// Size in bytes of the file system at a path.
    fn size(&self, path: &str) -> io::Result<u64>;
    /// `/proc/meminfo`.
    fn memory(&self) -> io::Result<Memory>;
    /// How many times slower than a server it is: 1 for one that is not.
    fn slowdown(&self) -> f64;
    /// Looks how fast it is now; to be called now and then while it comes up.
    fn sample_speed(&self) {}
}

/// The one that we run in.
pub(crate) struct Running;

static SPEED: Mutex<Speed> = Mutex::new(Speed::new());

impl System for Running {
    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output> {
        let mut child = start(command)?;
        let stdout = child.stdout.take().map(Reader::start);
        let stderr = child.stderr.take().map(Reader::start);
        let deadline = Instant::now() + patience;
        let mut ended = None;
        while ended.is_none() && Instant::now() < deadline {
            ended = child.try_wait()?;
            if ended.is_none() {
                thread::sleep(LOOK);
            }
        }
        let timed_out = ended.is_none();
        let status = ended.map_or_else(|| kill(&mut child), Ok)?;
        let until = Instant::now() + LAST_OUTPUT;
        let text = |reader: Option<Reader>| reader.map(|reader| reader.text(until)).unwrap_or_default();
        Ok(Output { exit: status.code(), stdout: text(stdout), stderr: text(stderr), timed_out })
    }

    fn scan(&self, command: &[&str], patience: Duration, each: &mut dyn FnMut(&str)) -> io::Result<Output> {
        let mut child = start(command)?;
        let stderr = child.stderr.take().map(Reader::start);
        let (sender, lines) = sync_channel(WAITING_LINES);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = Vec::new();
                while let Ok(1..) = (&mut stdout).take(LINE).read_until(b'\n', &mut line) {
                    let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                    line.clear();
                    if sender.send(text).is_err() {
                        return;
                    }
                }
            });
        }
        let deadline = Instant::now() + patience;
        let timed_out = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => each(&line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        // What closes its output and stays is not waited for either.
        let status = if timed_out { kill(&mut child)? } else { wait(&mut child, deadline)? };
        let until = Instant::now() + LAST_OUTPUT;
        let stderr = stderr.map(|reader| reader.text(until)).unwrap_or_default();
        Ok(Output { exit: status.code(), stdout: String::new(), stderr, timed_out })
    }

    fn mountinfo(&self) -> io::Result<String> {
        fs::read_to_string("/proc/self/mountinfo")
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_blocks.saturating_mul(found.f_frsize))
    }

    fn memory(&self) -> io::Result<Memory> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let kibibytes = line.trim_start_matches(':').trim_end_matches("kB").trim().parse::<u64>();
            kibibytes.map(|kibibytes| kibibytes.saturating_mul(1024)).map_err(io::Error::other)
        };
        Ok(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
    }

    fn slowdown(&self) -> f64 {
        SPEED.lock().unwrap_or_else(PoisonError::into_inner).slowdown()
    }

    fn sample_speed(&self) {
        SPEED.lock().unwrap_or_else(PoisonError::into_inner).sample();
    }
}

/// Starts a command in a process group of its own.
fn start(command: &[&str]) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(LOOK);
    }
    kill(child)
}

/// Ends a command with its children, which hold its pipes open as well.
fn kill(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.wait()
}

/// Reads a pipe by a thread of its own, which ends with the pipe.
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Gone when the pipe is at its end.
    end: Receiver<()>,
}

impl Reader {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (sender, end) = channel();
        let place = Arc::clone(&bytes);
        thread::spawn(move || {
            let _sender: Sender<()> = sender;
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let mut bytes = place.lock().unwrap_or_else(PoisonError::into_inner);
                // The rest is thrown away, so that the command can end.
                let room = OUTPUT.saturating_sub(bytes.len()).min(length);
                bytes.extend(buffer.iter().take(room));
            }
        });
        Self { bytes, end }
    }

    /// What came up to the end of the pipe, or to this time.
    fn text(self, until: Instant) -> String {
        let _ = self.end.recv_timeout(until.saturating_duration_since(Instant::now()));
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// A system that answers as told.
    pub(crate) struct Fake {
        pub(crate) root: tempfile::TempDir,
        pub(crate) mountinfo: String,
        pub(crate) sizes: BTreeMap<String, u64>,
        pub(crate) memory: Memory,
        pub(crate) slowdown: f64,
        pub(crate) answers: RefCell<BTreeMap<String, Vec<Output>>>,
        /// How long the last command was allowed to take.
        pub(crate) patience: Cell<Duration>,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
                mountinfo: String::new(),
                sizes: BTreeMap::new(),
                memory: Memory::default(),
                slowdown: 1.0,
                answers: RefCell::default(),
                patience: Cell::default(),
            }
        }
    }

    impl Fake {
        /// Puts a file into its root, with the folders above it.
        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn answer(&self, command: &str, exit: i32, stdout: &str, stderr: &str) {
            let output = Output { exit: Some(exit), stdout: stdout.into(), stderr: stderr.into(), timed_out: false };
            self.answers.borrow_mut().entry(command.into()).or_default().push(output);
        }

        /// So many times this status, then 0.
        pub(crate) fn answer_times(&self, command: &str, exit: i32, times: usize) {
            for _ in 0..times {
                self.answer(command, exit, "", "");
            }
            self.answer(command, 0, "", "");
        }
    }

    impl System for Fake {
        fn root(&self) -> &Path {
            self.root.path()
        }

        fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output> {
            self.patience.set(patience);
            let mut answers = self.answers.borrow_mut();
            let program = command.join(" ").trim_start_matches("/bin/").to_owned();
            let of_command = answers.get_mut(&program).ok_or(io::ErrorKind::NotFound)?;
            // The last answer stays.
            Ok(if of_command.len() > 1 { of_command.remove(0) } else { of_command[0].clone() })
        }

        fn scan(&self, command: &[&str], patience: Duration, each: &mut dyn FnMut(&str)) -> io::Result<Output> {
            let output = self.run(command, patience)?;
            output.stdout.lines().for_each(each);
            Ok(Output { stdout: String::new(), ..output })
        }

        fn mountinfo(&self) -> io::Result<String> {
            Ok(self.mountinfo.clone())
        }

        fn size(&self, path: &str) -> io::Result<u64> {
            self.sizes.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn memory(&self) -> io::Result<Memory> {
            Ok(self.memory)
        }

        fn slowdown(&self) -> f64 {
            self.slowdown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_run_and_a_hanging_one_killed_with_its_children() {
        let long = Duration::from_secs(20);
        let output = Running.run(&["/bin/sh", "-c", "cat; echo out; echo err >&2; exit 3"], long).unwrap();
        assert_eq!(output, Output { exit: Some(3), stdout: "out\n".into(), stderr: "err\n".into(), timed_out: false });
        let started = Instant::now();
        let output = Running.run(&["/bin/sh", "-c", "sleep 60 & wait"], Duration::from_millis(100)).unwrap();
        assert!(output.timed_out && output.exit.is_none() && started.elapsed() < long);
        assert!(Running.run(&["/no/such/program"], long).is_err());
    }

    #[test]
    fn what_a_command_leaves_in_the_background_is_not_waited_for() {
        let started = Instant::now();
        let output = Running.run(&["/bin/sh", "-c", "sleep 20 & echo out"], Duration::from_secs(30)).unwrap();
        assert_eq!((output.exit, output.stdout.as_str(), output.timed_out), (Some(0), "out\n", false));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn much_output_is_cut() {
        let output = Running.run(&["/bin/sh", "-c", "yes | head -c 1000000"], Duration::from_secs(20)).unwrap();
        assert_eq!((output.exit, output.stdout.len()), (Some(0), 256 * 1024));
    }

    #[test]
    fn the_running_system_tells_its_mounts_and_memory() {
        assert!(Running.mountinfo().unwrap().contains(" / "));
        assert!(Running.size("/proc/../").unwrap() > 0);
        let memory = Running.memory().unwrap();
        assert!(memory.total > memory.available && memory.available > 1 << 20);
    }

    #[test]
    fn lines_are_handed_on_as_they_come() {
        let scan = |script: &str, patience: Duration| {
            let mut lines = Vec::new();
            let output = Running.scan(&["/bin/sh", "-c", script], patience, &mut |line| lines.push(line.to_owned()));
            (lines, output.unwrap())
        };
        let long = Duration::from_secs(20);
        let (lines, output) = scan("echo a; echo; printf b; echo err >&2; exit 3", long);
        assert_eq!(lines, ["a", "", "b"]);
        assert_eq!(output, Output { exit: Some(3), stdout: String::new(), stderr: "err\n".into(), timed_out: false });
        let (lines, output) = scan("yes | head -c 3000000", long);
        assert_eq!((lines.len(), output.exit), (1_500_000, Some(0)));
        let (lines, _) = scan("head -c 100000 /dev/zero", long);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [65536, 34464]);
        let (lines, output) = scan("echo a; sleep 60 & wait", Duration::from_millis(200));
        assert_eq!((lines.len(), output.timed_out, output.exit), (1, true, None));
    }
}

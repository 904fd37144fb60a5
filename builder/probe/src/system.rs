//! What the checks need of the system; a trait, so that they can be tested without one.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Bytes of a command's output that are kept.
const OUTPUT: usize = 256 * 1024;
/// How long the output of a command that has ended is waited for: what it left in the background may hold it open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

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

/// The system that is checked.
pub(crate) trait System {
    /// Runs a command, for so long at most.
    fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output>;
    /// `/proc/self/mountinfo`.
    fn mountinfo(&self) -> io::Result<String>;
    /// Size in bytes of the file system at a path.
    fn size(&self, path: &str) -> io::Result<u64>;
    /// The machine's memory in bytes.
    fn memory(&self) -> io::Result<u64>;
}

/// The one that we run in.
pub(crate) struct Running;

impl System for Running {
    fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().map(Reader::start);
        let stderr = child.stderr.take().map(Reader::start);
        let deadline = Instant::now() + patience;
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                timed_out = true;
                // Its children hold the pipes open as well.
                if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    kill_process_group(group, Signal::KILL)?;
                }
                break child.wait()?;
            }
            thread::sleep(LOOK);
        };
        let until = Instant::now() + LAST_OUTPUT;
        let text = |reader: Option<Reader>| reader.map(|reader| reader.text(until)).unwrap_or_default();
        Ok(Output { exit: status.code(), stdout: text(stdout), stderr: text(stderr), timed_out })
    }

    fn mountinfo(&self) -> io::Result<String> {
        fs::read_to_string("/proc/self/mountinfo")
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_blocks.saturating_mul(found.f_frsize))
    }

    fn memory(&self) -> io::Result<u64> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
        let kibibytes = line.trim().trim_end_matches("kB").trim().parse::<u64>().map_err(io::Error::other)?;
        Ok(kibibytes.saturating_mul(1024))
    }
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
    #[derive(Default)]
    pub(crate) struct Fake {
        pub(crate) mountinfo: String,
        pub(crate) sizes: BTreeMap<String, u64>,
        pub(crate) memory: u64,
        pub(crate) answers: RefCell<BTreeMap<String, Vec<Output>>>,
        /// How long the last command was allowed to take.
        pub(crate) patience: Cell<Duration>,
    }

    impl Fake {
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
        fn run(&self, command: &[&str], patience: Duration) -> io::Result<Output> {
            self.patience.set(patience);
            let mut answers = self.answers.borrow_mut();
            let program = command.join(" ").trim_start_matches("/bin/").to_owned();
            let of_command = answers.get_mut(&program).ok_or(io::ErrorKind::NotFound)?;
            // The last answer stays.
            Ok(if of_command.len() > 1 { of_command.remove(0) } else { of_command[0].clone() })
        }

        fn mountinfo(&self) -> io::Result<String> {
            Ok(self.mountinfo.clone())
        }

        fn size(&self, path: &str) -> io::Result<u64> {
            self.sizes.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn memory(&self) -> io::Result<u64> {
            Ok(self.memory)
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
        assert!(Running.memory().unwrap() > 1 << 20);
    }
}

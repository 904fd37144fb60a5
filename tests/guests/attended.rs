//! `imgbuild boot`, as somebody before a terminal has it: script(1) plays the terminal.

use super::*;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{ChildStdin, ChildStdout},
    sync::mpsc::{self, Receiver},
};

/// How long a guest may take for anything.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the shell on the terminal runs: the mode must be after imgbuild what it was before.
const SESSION: &str = r#"
before=$(stty -g)
"$IMGBUILD" "$@"
echo "status $?"
after=$(stty -g)
[ "$before" = "$after" ] && echo 'the terminal is as it was' || echo "the terminal is $after, and was $before"
"#;

/// A terminal with a shell that runs `imgbuild` and says what came of it.
struct Session {
    script: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn new(temporary: &Path, arguments: &[&str]) -> Self {
        let mut session = String::from("set --");
        for argument in arguments {
            session.push_str(&format!(" '{argument}'"));
        }
        session.push_str(SESSION);
        // Of script's own arguments only the command is taken by a shell; its session is a group of its own.
        let mut command = Command::new("script");
        command.args(["-qec", &session, "/dev/null"]).env("SHELL", "/bin/sh").env("TMPDIR", temporary);
        command.env("IMGBUILD", IMGBUILD).env("IMGBUILD_CACHE", place().join("cache"));
        let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bsdutils is installed");
        let (keys, stdout) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        Self { script, keys, screen: watch(stdout), seen: String::new() }
    }

    /// Waits until the screen shows something; panics with all that it showed.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no `{text}` on the screen ({error}):\n{}", self.seen),
            }
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    /// The process of that program below the session, once it is there.
    fn find(&self, program: &str) -> u32 {
        let mut below = vec![self.script.id()];
        while let Some(pid) = below.pop() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim().starts_with(program) {
                return pid;
            }
            // A process's children are those of all its threads.
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                below.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
            }
        }
        panic!("no {program} below the session:\n{}", self.seen);
    }

    /// Waits for the end of all.
    fn end(mut self) -> String {
        self.until("the terminal is ");
        self.script.wait().unwrap();
        self.seen
    }
}

fn watch(mut screen: ChildStdout) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = screen.read(&mut buffer) {
            if send.send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// What the guest of `mode=serve` has to say.
fn ask(port: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // QEMU takes every connection, and ends it if nobody does in the guest.
        let mut said = String::new();
        if let Ok(mut guest) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            && guest.set_read_timeout(Some(Duration::from_secs(10))).is_ok()
        {
            let _ = guest.read_to_string(&mut said);
        }
        if said.contains("BOOTIF=") && said.ends_with('\n') {
            return said;
        }
        assert!(Instant::now() < deadline, "the guest does not answer at port {port}: {said}");
        thread::sleep(Duration::from_millis(500));
    }
}

#[track_caller]
fn nothing_left(temporary: &Path) {
    let left: Vec<_> = fs::read_dir(temporary).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

const NICS: [&str; 2] = ["52:54:00:00:00:0a", "52:54:00:00:00:0b"];

/// By UEFI and PXE, for which the console has to be read by two at once.
#[test]
fn a_guest_with_two_cards_is_reached_at_a_port_and_left_by_ctrl_a_x() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let (bundle, port) = (bundle("good"), free_port());
    let forward = format!("{port}:7777");
    let serve = ["--append", "mode=serve", "--append", "netboot.handover=keep", "--debug"];
    let mut arguments = vec!["boot", &bundle, "--path", "pxe-uefi", "--forward", &forward];
    arguments.extend(["--nic", NICS[0], "--nic", NICS[1], "--accel", "tcg"]);
    arguments.extend(serve);
    let mut session = Session::new(temporary.path(), &arguments);
    session.until("netboot: ");
    let said = ask(port);
    assert!(said.contains("BOOTIF=01-52-54-00-00-00-0a ") && said.contains(" netboot.debug "), "{said}");
    assert!(NICS.iter().all(|mac| said.contains(mac)), "{said}");
    let qemu = session.find("qemu-system");
    session.press(b"\x01x");
    let seen = session.end();
    assert!(seen.contains("status 0\r\n") && seen.contains("the terminal is as it was"), "{seen}");
    assert!(seen.contains(&format!("port {port} of 127.0.0.1 is the guest's 7777")), "{seen}");
    assert!(!runs(qemu));
    nothing_left(temporary.path());
}

#[test]
fn a_signal_ends_a_guest_and_gives_the_terminal_back() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let bundle = bundle("good");
    let mut session = Session::new(temporary.path(), &["boot", &bundle, "--append", "mode=hang"]);
    session.until("Welcome to nowhere");
    // In a raw terminal Ctrl-C is a key like any other, and the guest's.
    session.press(b"\x03");
    let (imgbuild, qemu) = (session.find("imgbuild"), session.find("qemu-system"));
    thread::sleep(Duration::from_secs(1));
    assert!(runs(qemu));
    kill_process(Pid::from_raw(i32::try_from(imgbuild).unwrap()).unwrap(), Signal::TERM).unwrap();
    let seen = session.end();
    assert!(seen.contains("interrupted; the guest has been stopped"), "{seen}");
    assert!(seen.contains("status 1\r\n") && seen.contains("the terminal is as it was"), "{seen}");
    assert!(!runs(qemu));
    nothing_left(temporary.path());
}

#[test]
fn what_cannot_be_booted_so_is_told_without_a_guest() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = |arguments: &[&str], status: i32| {
        let output = imgbuild(place()).arg("boot").arg(bundle("good")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let forward = said(&["--accel", "tcg", "-p", &format!("{port}:22")], 1);
    assert!(forward.contains(&format!("port {port} of 127.0.0.1 cannot be had")), "{forward}");
    let twice = said(&["--accel", "tcg", "--nic", NICS[0], "--nic", NICS[0]], 2);
    assert!(twice.contains("another card has it"), "{twice}");
}

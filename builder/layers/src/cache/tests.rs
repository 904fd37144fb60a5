use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn open() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path().join("new/cache")).unwrap();
    (dir, cache)
}

fn fill(bytes: &[u8]) -> impl FnOnce(&mut Partial) -> Result<(), CacheError> {
    move |partial| partial.write_all(bytes).map_err(|e| CacheError::write(partial.path(), e))
}

fn partials(cache: &Cache) -> usize {
    std::fs::read_dir(cache.dir().join(PARTIAL)).unwrap().count()
}

#[test]
fn an_entry_is_made_once_and_read_only() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    assert_eq!(bucket.get("a/b").unwrap(), None);
    let path = bucket.insert("a/b", fill(b"hello")).unwrap();
    assert_eq!(path, cache.dir().join("things-v1/a/b"));
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    let again = bucket.insert("a/b", |_| -> Result<(), CacheError> { panic!("it is there") }).unwrap();
    assert_eq!(again, path);
    assert_eq!(bucket.get("a/b").unwrap(), Some(path));
    assert_eq!(partials(&cache), 0);
}

#[test]
fn a_failed_fill_leaves_nothing() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    let failed = bucket.insert("a", |partial| {
        partial.write_all(b"half").unwrap();
        Err(CacheError::Key { key: "the fill's own error".to_owned() })
    });
    assert!(failed.unwrap_err().to_string().contains("the fill's own error"));
    assert_eq!((bucket.get("a").unwrap(), partials(&cache)), (None, 0));
}

#[test]
fn an_entry_of_another_length_is_thrown_away() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    bucket.insert("a", fill(b"hello")).unwrap();
    assert!(bucket.get_sized("a", 5).unwrap().is_some());
    assert!(bucket.get_sized("a", 6).unwrap().is_none());
    assert!(bucket.get("a").unwrap().is_none());
}

#[test]
fn keys_stay_in_their_bucket() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    for key in ["", "/", "a//b", "..", "a/../b", ".hidden", "a b", "a\0b", "/etc/passwd", "ä"] {
        assert!(matches!(bucket.path(key), Err(CacheError::Key { .. })), "{key:?}");
    }
    assert!(bucket.path("sha256/0f.x_y+z-1").is_ok());
}

#[test]
fn of_many_threads_one_fills_and_all_get_it() {
    let (_dir, cache) = open();
    let fills = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                // A handle of its own for each, as another process would have.
                let path = Cache::open(cache.dir()).unwrap().bucket("things-v1").insert("one", |partial| {
                    fills.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(30));
                    fill(b"whole")(partial)
                });
                assert_eq!(std::fs::read(path.unwrap()).unwrap(), b"whole");
            });
        }
    });
    assert_eq!((fills.into_inner(), partials(&cache)), (1, 0));
}

#[test]
fn when_the_first_fails_the_next_in_line_fills() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    let Claim::Mine(first) = bucket.claim("a", false, || ()).unwrap() else { panic!() };
    std::thread::scope(|scope| {
        let waited = AtomicU32::new(0);
        let second = scope.spawn(|| {
            let tell = || _ = waited.fetch_add(1, Ordering::Relaxed);
            match bucket.claim("a", false, tell).unwrap() {
                Claim::Mine(mut partial) => {
                    fill(b"second")(&mut partial).unwrap();
                    (partial.commit().unwrap(), waited.into_inner())
                }
                Claim::Present(_) => panic!("the first did not commit"),
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        let (path, waited) = second.join().unwrap();
        assert_eq!((std::fs::read(path).unwrap().as_slice(), waited), (&b"second"[..], 1));
    });
}

#[test]
fn what_dead_processes_left_is_taken_back_unless_it_can_be_resumed() {
    let (_dir, cache) = open();
    let bucket = cache.bucket("things-v1");
    let Claim::Mine(mut broken_off) = bucket.claim("download", true, || ()).unwrap() else { panic!() };
    fill(b"half")(&mut broken_off).unwrap();
    drop(broken_off);
    let Claim::Mine(at_work) = bucket.claim("at-work", false, || ()).unwrap() else { panic!() };
    std::fs::write(cache.dir().join(PARTIAL).join("things-v1+orphan.new"), b"left by SIGKILL").unwrap();
    assert_eq!(partials(&cache), 3);
    let cache = Cache::open(cache.dir()).unwrap();
    assert_eq!(partials(&cache), 2, "the orphan is gone, what is locked or resumable stays");
    let Claim::Mine(resumed) = bucket.claim("download", true, || ()).unwrap() else { panic!() };
    assert_eq!(resumed.written().unwrap(), 4);
    drop(resumed);
    cache.sweep(SystemTime::now() + RESUMABLE_FOR + Duration::from_secs(60));
    assert_eq!(partials(&cache), 1, "nobody came back for the download");
    drop(at_work);
    assert_eq!(partials(&cache), 0);
}

/// Runs this test binary again for one test, with `IMGBUILD_TEST_CACHE` set: the other process of a test of two.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("cache::tests::{test}"), "--nocapture"]).env("IMGBUILD_TEST_CACHE", dir);
    command
}

fn child_cache() -> Option<Cache> {
    std::env::var_os("IMGBUILD_TEST_CACHE").map(|dir| Cache::open(dir).unwrap())
}

#[test]
fn a_killed_process_leaves_no_entry_and_no_lock() {
    if let Some(cache) = child_cache() {
        let _ = cache.bucket("things-v1").insert("a", |partial| {
            fill(b"half of it")(partial)?;
            println!("written");
            std::thread::sleep(Duration::from_secs(60));
            Ok::<(), CacheError>(())
        });
        return;
    }
    let (_dir, cache) = open();
    let mut child =
        child("a_killed_process_leaves_no_entry_and_no_lock", cache.dir()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    assert!(lines.any(|line| line.unwrap().contains("written")));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let bucket = cache.bucket("things-v1");
    assert_eq!(bucket.get("a").unwrap(), None);
    let path = bucket.insert("a", fill(b"whole")).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"whole");
    assert_eq!(partials(&cache), 0);
}

#[test]
fn a_full_disk_is_named_with_what_is_needed_and_what_is_free() {
    if let Some(cache) = child_cache() {
        let bucket = cache.bucket("things-v1");
        let chunk = [7; 65536];
        let full = bucket.insert("big", |partial| {
            for _ in 0..64 {
                partial.write_all(&chunk).map_err(|e| CacheError::write(partial.path(), e))?;
            }
            Ok::<(), CacheError>(())
        });
        let Err(CacheError::DiskFull { path, free, .. }) = full else { panic!("{full:?}") };
        assert!(path.starts_with(cache.dir()) && free.unwrap() < 65536, "{path:?} {free:?}");
        assert_eq!((bucket.get("big").unwrap(), partials(&cache)), (None, 0));
        // The space is free again, and a need known beforehand is refused before the first byte.
        let Claim::Mine(partial) = bucket.claim("big", true, || ()).unwrap() else { panic!() };
        let message = partial.require_space(4 << 20).unwrap_err().to_string();
        assert!(message.contains("4194304 more bytes are needed, ") && message.contains("bytes are free"), "{message}");
        partial.require_space(512 << 10).unwrap();
        println!("all was as it should be");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let inner = child("a_full_disk_is_named_with_what_is_needed_and_what_is_free", dir.path());
    // A file system of one megabyte, in a name space of its own so that no root is needed.
    let mut outer = Command::new("unshare");
    outer.args(["--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\""]);
    outer.arg(dir.path()).arg(inner.get_program()).args(inner.get_args()).env("IMGBUILD_TEST_CACHE", dir.path());
    let output = outer.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("all was as it should be"), "{output:?}");
}

#[test]
fn a_cache_that_cannot_be_made_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let message = Cache::open(dir.path().join("file/cache")).unwrap_err().to_string();
    assert!(message.contains("file/cache") && message.contains("IMGBUILD_CACHE"), "{message}");
}

#[test]
fn the_environment_says_where_the_cache_is() {
    let dir = |set: &[(&str, &str)]| {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let found =
            Cache::default_dir_in(|name| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone()));
        found.map(|dir| dir.display().to_string()).map_err(|e| e.to_string())
    };
    let home = ("HOME", "/home/u");
    assert_eq!(dir(&[("IMGBUILD_CACHE", "here"), ("XDG_CACHE_HOME", "/x"), home]).unwrap(), "here");
    assert_eq!(dir(&[("IMGBUILD_CACHE", ""), ("XDG_CACHE_HOME", "/x"), home]).unwrap(), "/x/imgbuild");
    assert_eq!(dir(&[("XDG_CACHE_HOME", "relative"), home]).unwrap(), "/home/u/.cache/imgbuild");
    assert!(dir(&[]).unwrap_err().contains("set IMGBUILD_CACHE"));
}

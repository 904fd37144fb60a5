//! Several builds over one cache, and builds that are killed.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imgbuild_layers::cache::Cache;
use imgbuild_layers::oci::{Digest, Oci, Options, Platform};
use imgbuild_progress::Silent;

use super::images::{Layer, Layout, gzip, tar, tar_of};
use super::servers::{Answer, Server, text};
use super::{Bench, named};

const CACHE: &str = "IMGBUILD_TEST_OCI_CACHE";
const IMAGE: &str = "IMGBUILD_TEST_OCI_IMAGE";

/// Not a test of its own: what the other tests run as another process.
#[test]
fn another_process_fetches() {
    let (Some(cache), Ok(image)) = (std::env::var_os(CACHE), std::env::var(IMAGE)) else { return };
    let cache = Cache::open(cache).unwrap();
    let oci = Oci::new(&cache, &Silent, Options::default());
    let (source, platform) = (named(&image), Platform::new("amd64"));
    let digest = oci.resolve(&source, &platform).unwrap();
    oci.fetch(&source, &digest, &platform, "base").unwrap();
}

/// This test binary again, for [`another_process_fetches`].
pub(crate) fn another_process(bench: &Bench, image: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "sharing::another_process_fetches", "--nocapture"])
        .env(CACHE, bench.cache.dir())
        .env(IMAGE, image)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn processes_and_threads_at_once_fetch_each_blob_once() {
    let bench = Bench::new();
    let layers: Vec<_> = (0..5).map(|n| gzip(tar(&format!("f{n}"), 200_000))).collect();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", &layers)["digest"].as_str().unwrap().to_owned();
    let server = Server::registry(&layout, &[("1", &manifest)], |request, _| {
        // Long enough that the others come while the first is at it.
        if request.path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let image = format!("{}/x:1", server.address);
    let children: Vec<_> = (0..3).map(|_| another_process(&bench, &image).spawn().unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| bench.fetch(&image).unwrap());
        }
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for layer in &layers {
        assert_eq!(server.ranges(Digest::sha256(&layer.stored).as_str()), [None]);
    }
    let wanted: Vec<_> = layers.iter().map(|layer| layer.tar.clone()).collect();
    assert_eq!(bench.tars(&bench.fetch(&image).unwrap()), wanted);
    assert_eq!((bench.entries("tars-v1"), bench.entries("partial-v1")), (5, 0));
}

#[test]
fn after_sigkill_the_download_goes_on() {
    let bench = Bench::new();
    let layer = gzip(tar("big", 400_000));
    let blob = Digest::sha256(&layer.stored).to_string();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", std::slice::from_ref(&layer))["digest"].as_str().unwrap().to_owned();
    let (wanted, first) = (blob.clone(), AtomicBool::new(true));
    let server = Server::registry(&layout, &[("1", &manifest)], move |request, content| {
        let stalls = request.wants(&wanted) && first.swap(false, Ordering::SeqCst);
        stalls.then(|| Answer::Stall(content.to_vec(), 150_000))
    });
    let image = format!("{}/x:1", server.address);
    let mut child = another_process(&bench, &image).spawn().unwrap();
    let partial = bench.cache.dir().join("partial-v1").join(format!("blobs-v1+{}.resume", blob.replace(':', "+")));
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&partial).map_or(0, |m| m.len()) < 150_000 {
        assert!(Instant::now() < deadline, "the other process does not get on");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.entries("tars-v1"), 0);

    let fetched = bench.fetch(&image).unwrap();
    assert_eq!(bench.tars(&fetched), [layer.tar]);
    assert_eq!(server.ranges(&blob), [None, Some(150_000)]);
    assert_eq!(bench.entries("partial-v1"), 0);
}

#[test]
fn layers_come_several_at_a_time_but_not_all_at_once() {
    let bench = Bench::new();
    let layers: Vec<_> = (0..9).map(|n| gzip(tar(&format!("f{n}"), 1000))).collect();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", &layers)["digest"].as_str().unwrap().to_owned();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let server = Server::registry(&layout, &[("1", &manifest)], move |request, _| {
        if request.path.contains("/blobs/") {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            counted.fetch_sub(1, Ordering::SeqCst);
        }
        None
    });
    bench.fetch(&format!("{}/x:1", server.address)).unwrap();
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
}

/// Fetches in a file system of one megabyte, which must fail; returns what is said, the big files that are left, and whether the
/// layer was asked for.
fn fetch_on_a_small_disk(layer: &Layer) -> (String, Vec<String>, bool) {
    let bench = Bench::new();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", std::slice::from_ref(layer))["digest"].as_str().unwrap().to_owned();
    let server = Server::registry(&layout, &[("1", &manifest)], |_, _| None);
    let inner = another_process(&bench, &format!("{}/x:1", server.address));
    // In a name space of its own, so that no root is needed.
    let script = "mount -t tmpfs -o size=1m tmpfs \"$0\" && \"$@\"; code=$?; find \"$0\" -type f -size +64k | sed 's/^/LEFT /'; exit $code";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(bench.cache.dir())
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let left = stdout.lines().filter_map(|line| line.strip_prefix("LEFT ")).map(str::to_owned).collect();
    let asked = !server.ranges(Digest::sha256(&layer.stored).as_str()).is_empty();
    (stderr + &stdout, left, asked)
}

#[test]
fn a_disk_too_full_for_a_blob_is_found_before_its_first_byte() {
    let layer = gzip(tar("big", 3 << 20));
    let (said, left, asked) = fetch_on_a_small_disk(&layer);
    assert!(said.contains("DiskFull") && said.contains("free: Some("), "{said}");
    assert!(said.contains(&format!("needed: Some({})", layer.stored.len())), "{said}");
    assert!(!asked && left.is_empty(), "{left:?}");
}

#[test]
fn a_disk_too_full_for_an_unpacked_layer_keeps_no_part_of_it() {
    let (said, left, asked) = fetch_on_a_small_disk(&gzip(tar_of("zeros", &vec![0; 3 << 20])));
    assert!(said.contains("DiskFull") && said.contains("tars-v1+sha256"), "{said}");
    assert!(asked && left.is_empty(), "{left:?}");
}

#[test]
fn a_proxy_of_the_environment_is_not_used_for_this_machine() {
    let bench = Bench::new();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", &[gzip(tar("one", 100))])["digest"].as_str().unwrap().to_owned();
    let server = Server::registry(&layout, &[("1", &manifest)], |_, _| None);
    let proxy = Server::start(|_| text(502, "the proxy was asked"));
    let mut child = another_process(&bench, &format!("{}/x:1", server.address));
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child.env(name, format!("http://{}", proxy.address));
    }
    let output = child.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(proxy.seen().is_empty());
}

#[test]
fn a_blob_that_rotted_in_the_cache_is_fetched_again() {
    let bench = Bench::new();
    let layer = gzip(tar("one", 5000));
    let blob = Digest::sha256(&layer.stored);
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", std::slice::from_ref(&layer))["digest"].as_str().unwrap().to_owned();
    let server = Server::registry(&layout, &[("1", &manifest)], |_, _| None);
    let image = format!("{}/x:1", server.address);
    bench.fetch(&image).unwrap();
    let kept = bench.cache.dir().join("blobs-v1").join(blob.key());
    let mut rotten = layer.stored.clone();
    rotten[2000] ^= 1;
    std::fs::remove_file(&kept).unwrap();
    std::fs::write(&kept, rotten).unwrap();
    bench.cache.bucket("tars-v1").remove(&Digest::sha256(&layer.tar).key()).unwrap();
    let fetched = bench.fetch(&image).unwrap();
    assert_eq!((bench.tars(&fetched), server.ranges(blob.as_str())), (vec![layer.tar], vec![None, None]));
}

#[test]
fn a_damaged_cache_entry_is_replaced() {
    let bench = Bench::new();
    let layer = gzip(tar("big", 40_000));
    let mut layout = Layout::new(bench.dir.path().join("layout"));
    let image = layout.image("amd64", std::slice::from_ref(&layer));
    layout.tag(image, "1");
    let fetched = bench.fetch(&layout.source()).unwrap();
    let tar = bench.oci().open_layer_tar(&fetched.layers[0]).unwrap().1;
    // Root may write what is read-only; an ordinary user would have to work harder.
    std::fs::remove_file(&tar).unwrap();
    std::fs::write(&tar, b"cut short").unwrap();
    assert_eq!(bench.tars(&fetched), [layer.tar]);
}

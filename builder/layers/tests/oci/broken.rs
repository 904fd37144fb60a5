//! A registry that breaks off, stalls, errs and lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imgbuild_layers::oci::OciError;
use serde_json::json;

use super::images::{Layer, Layout, gzip, plain, tar};
use super::servers::{Answer, Request, Server, text};
use super::{Bench, chain};

const SIZE: usize = 400_000;

/// An image with one big layer, and that layer's digest.
struct OneLayer {
    layout: Layout,
    manifest: String,
    blob: String,
    layer: Layer,
}

fn one_layer(bench: &Bench) -> OneLayer {
    let layer = gzip(tar("big", SIZE));
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", std::slice::from_ref(&layer))["digest"].as_str().unwrap().to_owned();
    let blob = imgbuild_layers::oci::Digest::sha256(&layer.stored).to_string();
    OneLayer { layout, manifest, blob, layer }
}

impl OneLayer {
    /// Serves it; `meddle` is asked for the blob's answers, with the count of the blob's requests before this one.
    fn serve(&self, meddle: impl Fn(&Request, &[u8], usize) -> Option<Answer> + Send + Sync + 'static) -> Server {
        let (blob, count) = (self.blob.clone(), AtomicUsize::new(0));
        Server::registry(&self.layout, &[("1", &self.manifest)], move |request, content| {
            request.wants(&blob).then(|| meddle(request, content, count.fetch_add(1, Ordering::SeqCst)))?
        })
    }

    fn source(&self, server: &Server) -> String {
        format!("{}/x:1", server.address)
    }
}

/// Nothing of the layer may be in the cache, not even in part.
fn assert_nothing_kept(bench: &Bench, image: &OneLayer) {
    let kept = bench.cache.dir().join("blobs-v1").join(image.blob.replace(':', "/"));
    assert!(!kept.exists());
    assert_eq!((bench.entries("tars-v1"), bench.entries("partial-v1")), (0, 0));
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|request, content, count| {
        let from = request.range().unwrap_or(0);
        let status = if from > 0 { 206 } else { 200 };
        (count < 3).then(|| Answer::Cut(status, Vec::new(), content[from..].to_vec(), 100_000))
    });
    let fetched = bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(bench.tars(&fetched), [image.layer.tar]);
    assert_eq!(server.ranges(&image.blob), [None, Some(100_000), Some(200_000), Some(300_000)]);
    assert!(bench.seen.details().contains("at 100000 of "), "{}", bench.seen.details());
}

#[test]
fn a_registry_without_range_is_asked_for_the_whole_again() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, content, count| {
        Some(match count {
            0 => Answer::Cut(200, Vec::new(), content.to_vec(), 100_000),
            _ => Answer::Whole(200, Vec::new(), content.to_vec()),
        })
    });
    let fetched = bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(bench.tars(&fetched), [image.layer.tar]);
    assert_eq!(server.ranges(&image.blob), [None, Some(100_000)]);
}

#[test]
fn a_range_that_was_not_asked_for_is_not_used() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, content, count| match count {
        0 => Some(Answer::Cut(200, Vec::new(), content.to_vec(), 100_000)),
        1 => Some(Answer::Whole(206, Vec::new(), content[50_000..].to_vec())),
        _ => None,
    });
    let fetched = bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(bench.tars(&fetched), [image.layer.tar]);
    assert_eq!(server.ranges(&image.blob), [None, Some(100_000), None]);
}

#[test]
fn an_ailing_registry_is_given_time_but_not_for_ever() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, _, count| match count {
        0 => Some(text(503, "<h1>try\n later</h1>")),
        1 => Some(text(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)),
        _ => None,
    });
    bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(server.ranges(&image.blob).len(), 3);

    let bench = Bench::new();
    let server = image.serve(|_, _, _| Some(text(503, "<h1>try\n later</h1>")));
    let error = bench.fetch(&image.source(&server)).unwrap_err();
    assert!(matches!(error, OciError::Status { .. }) && !error.is_verification());
    assert!(error.to_string().contains("503: <h1>try later</h1>"), "{error}");
    assert_eq!(server.ranges(&image.blob).len(), bench.options.retry.attempts as usize);

    let bench = Bench::new();
    let server = Server::start(|_| text(502, "bad gateway"));
    let message = bench.fetch(&image.source(&server)).unwrap_err().to_string();
    assert!(message.contains("502: bad gateway"), "{message}");
}

#[test]
fn a_registry_that_says_nothing_more_is_left_after_a_while() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, content, count| (count == 0).then(|| Answer::Stall(content.to_vec(), 100_000)));
    let fetched = bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(bench.tars(&fetched), [image.layer.tar]);
    assert_eq!(server.ranges(&image.blob), [None, Some(100_000)]);
    assert!(bench.seen.details().contains("it stopped sending"), "{}", bench.seen.details());
}

#[test]
fn altered_bytes_are_refused_and_not_kept() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, content, _| {
        let mut altered = content.to_vec();
        altered[200_000] ^= 1;
        Some(Answer::Whole(200, Vec::new(), altered))
    });
    let error = bench.fetch(&image.source(&server)).unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }) && error.is_verification(), "{error}");
    assert!(error.to_string().contains(&image.blob) && error.to_string().contains(&server.address), "{error}");
    assert_nothing_kept(&bench, &image);
}

#[test]
fn more_or_fewer_bytes_than_the_manifest_says_are_refused() {
    for delta in [-1_isize, 1] {
        let bench = Bench::new();
        let image = one_layer(&bench);
        let server = image.serve(move |_, content, _| {
            let mut other = content.to_vec();
            other.resize(content.len().checked_add_signed(delta).unwrap(), 0);
            Some(Answer::Whole(200, Vec::new(), other))
        });
        let error = bench.fetch(&image.source(&server)).unwrap_err();
        assert!(matches!(error, OciError::SizeMismatch { .. }) && error.is_verification(), "{error}");
        assert_nothing_kept(&bench, &image);
    }
}

#[test]
fn a_damaged_partial_file_costs_one_more_download() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, _, _| None);
    let name = format!("blobs-v1+{}.resume", image.blob.replace(':', "+"));
    std::fs::write(bench.cache.dir().join("partial-v1").join(name), vec![7; 1000]).unwrap();
    let fetched = bench.fetch(&image.source(&server)).unwrap();
    assert_eq!(bench.tars(&fetched), [image.layer.tar]);
    assert_eq!(server.ranges(&image.blob), [Some(1000), None]);
    assert!(bench.seen.details().contains("starting over"), "{}", bench.seen.details());
}

#[test]
fn an_altered_manifest_is_refused() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let manifest = image.manifest.clone();
    let server = Server::registry(&image.layout, &[("1", &image.manifest)], move |request, content| {
        let spoilt = request.path.ends_with(&manifest) && request.method == "GET";
        spoilt.then(|| Answer::Whole(200, Vec::new(), [content, b" "].concat()))
    });
    let error = bench.fetch(&image.source(&server)).unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");
    assert_eq!(bench.entries("blobs-v1"), 0);
}

#[test]
fn a_tag_costs_one_head_and_the_manifest_is_fetched_once() {
    let bench = Bench::new();
    let image = one_layer(&bench);
    let server = image.serve(|_, _, _| None);
    bench.fetch(&image.source(&server)).unwrap();
    let first = server.seen().len();
    bench.fetch(&image.source(&server)).unwrap();
    let later: Vec<_> = server.seen()[first..].iter().map(|r| (r.method.clone(), r.path.clone())).collect();
    let (tag, rest): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, path)| path.contains("manifests"));
    assert_eq!(tag, [("HEAD".to_owned(), "/v2/x/manifests/1".to_owned())]);
    assert!(rest.iter().all(|(_, path)| path == "/v2/"), "{rest:?}");
}

#[test]
fn what_the_config_says_of_a_layer_must_be_true() {
    let bench = Bench::new();
    let mut layout = Layout::new(bench.dir.path().join("l"));
    let forged = layout.image_with("amd64", &[gzip(tar("a", 9))], |config, _| {
        config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "1".repeat(64)));
    });
    let uneven = layout.image_with("amd64", &[gzip(tar("a", 9))], |config, _| config["rootfs"]["diff_ids"] = json!([]));
    let artifact = layout.image_with("", &[], |config, _| *config = json!({}));
    let foreign = layout.image_with("amd64", &[gzip(tar("a", 9))], |_, manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    });
    let truncated = Layer { stored: gzip(tar("a", 50_000)).stored[..30_000].to_vec(), ..gzip(tar("a", 50_000)) };
    let truncated = layout.image("amd64", &[truncated]);
    let nested = layout.index(&[layout.index(std::slice::from_ref(&forged))]);
    for (descriptor, tag) in [
        (forged, "forged"),
        (uneven, "uneven"),
        (artifact, "artifact"),
        (foreign, "foreign"),
        (truncated, "truncated"),
        (nested, "nested"),
    ] {
        layout.tag(descriptor, tag);
    }
    for (tag, part, verification) in [
        ("forged", "damaged or forged", true),
        ("nested", "damaged or forged", true),
        ("uneven", "1 layers, the config 0", false),
        ("artifact", "no container image", false),
        ("foreign", "Windows base layers", false),
        ("truncated", "cannot decompress layer", true),
    ] {
        let error = bench.fetch(&format!("{}:{tag}", layout.source())).unwrap_err();
        assert!(chain(&error).contains(part), "{tag}: {}", chain(&error));
        assert_eq!(error.is_verification(), verification, "{tag}");
    }
    assert_eq!((bench.entries("tars-v1"), bench.entries("partial-v1")), (0, 0));
}

#[test]
fn the_first_error_ends_the_other_downloads() {
    let bench = Bench::new();
    let layers: Vec<_> = (0..6).map(|n| plain(tar(&format!("f{n}"), 50_000))).collect();
    let layout = Layout::new(bench.dir.path().join("layout"));
    let manifest = layout.image("amd64", &layers)["digest"].as_str().unwrap().to_owned();
    let first = Arc::new(imgbuild_layers::oci::Digest::sha256(&layers[0].stored).to_string());
    let bad = first.clone();
    let server =
        Server::registry(&layout, &[("1", &manifest)], move |request, _| request.wants(&bad).then(|| text(403, "no")));
    let error = bench.fetch(&format!("{}/x:1", server.address)).unwrap_err();
    assert!(error.to_string().contains(first.as_str()), "the cause is reported, not what followed from it: {error}");
}

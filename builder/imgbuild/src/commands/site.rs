//! Commands about a boot server's folder.

use std::sync::Arc;

use imgbuild_bundle::Bundle;
use imgbuild_progress::Progress;
use imgbuild_publish::{Error, Move, Stored};
use imgbuild_serve::{Access, Server, Tree};

use crate::args::{self, Global};
use crate::failure::{Code, Failure, OrFail, Outcome, bundle_code};
use crate::print_either;

fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::Bundle(e) => bundle_code(e),
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

/// `imgbuild publish`.
pub(crate) fn publish(args: &args::Publish, global: &Global, progress: &dyn Progress) -> Outcome {
    let bundle = Bundle::open(&args.bundle).map_err(|e| failure(e.into()))?;
    // A root-only bundle has nothing that a channel could boot; it is stored all the same.
    let usual = bundle.manifest().kernel.is_some().then_some("stable");
    let channel = args.channel.as_deref().or(usual);
    let done = imgbuild_publish::publish(&args.bundle, &args.target, channel, progress).map_err(failure)?;
    print_either(global, &done, || {
        let stored = match done.stored {
            Stored::New => "published",
            Stored::Unchanged => "was there already",
        };
        let channel = match (&done.moved, channel) {
            (Some(moved), _) => format!("\n{}", moved_text(moved)),
            (None, Some(channel)) => format!("\nchannel {channel} stands there already"),
            (None, None) => String::new(),
        };
        format!("{} {} {stored} in {}{channel}", done.name, done.id.version, done.path.display())
    })
}

/// `imgbuild rollback`.
pub(crate) fn rollback(args: &args::Rollback, global: &Global, progress: &dyn Progress) -> Outcome {
    let moved = imgbuild_publish::rollback(&args.target, &args.name, &args.channel, progress).map_err(failure)?;
    print_either(global, &moved, || moved_text(&moved))
}

fn moved_text(moved: &Move) -> String {
    match &moved.from {
        Some(from) => format!("channel {}: {} -> {}", moved.channel, from.version, moved.to.version),
        None => format!("channel {}: {}", moved.channel, moved.to.version),
    }
}

/// A request in a line: who, what, how it went.
fn line(access: &Access) -> String {
    let Access { peer, method, path, status, length, sent, took, .. } = access;
    let cut = if sent < length && method == "GET" { format!(" of {length}, broken off") } else { String::new() };
    format!("{} {method} {path} {status} {sent}{cut} bytes {:.1} s", peer.ip(), took.as_secs_f64())
}

/// `imgbuild serve`.
pub(crate) fn serve(args: &args::Serve, progress: Arc<dyn Progress>) -> Outcome {
    let tree = Tree::folder(&args.dir).or_fail(Code::Input)?;
    let log = progress.clone();
    let log = move |access: &Access| log.note(line(access));
    let server = Server::bind_logged(&args.listen.to_string(), tree, log).or_fail(Code::Failed)?;
    progress.note(format!("serving {} on http://{}/", args.dir.display(), server.address()));
    server.wait();
    Ok(())
}

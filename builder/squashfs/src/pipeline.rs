//! Work in parallel, results in order, with bounded memory.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::Error;

/// Jobs under way for each worker: one in work, and enough behind it that a slow block holds nobody up.
const JOBS_PER_WORKER: usize = 3;

/// Hands `jobs` to `workers`, each on a thread of its own, and their results to `finish` in the order of the jobs, on
/// the calling thread. At most three jobs a worker are under way or waiting to be finished.
///
/// # Errors
/// The first one of a worker or of `finish`, in the order of the jobs; or no thread could be started.
pub(crate) fn run<J, R, F>(
    workers: Vec<F>,
    jobs: impl Iterator<Item = J>,
    mut finish: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error>
where
    J: Send,
    R: Send,
    F: FnMut(J) -> Result<R, Error> + Send,
{
    let window = workers.len() * JOBS_PER_WORKER;
    let cancelled = AtomicBool::new(false);
    // Every job takes along the sender for its one result; the receivers wait in the order of the jobs.
    let (send, receive) = sync_channel::<(J, SyncSender<Result<R, Error>>)>(window.max(1));
    let receive = Mutex::new(receive);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut refused = None;
        for mut worker in workers {
            let (receive, cancelled) = (&receive, &cancelled);
            let work = move || {
                while let Some((job, reply)) = next(receive) {
                    if cancelled.load(Ordering::Relaxed) {
                        return;
                    }
                    // Nobody listens any more once something failed.
                    let _ = reply.send(worker(job));
                }
            };
            match thread::Builder::new().name("squashfs".to_owned()).spawn_scoped(scope, work) {
                Ok(thread) => threads.push(thread),
                Err(error) => refused = Some(error),
            }
        }
        if let (Some(error), true) = (refused, threads.is_empty()) {
            return Err(Error::Thread(error));
        }
        let mut pending: VecDeque<Receiver<Result<R, Error>>> = VecDeque::with_capacity(window);
        let drive = || {
            for job in jobs {
                if pending.len() >= window
                    && let Some(reply) = pending.pop_front()
                {
                    let Ok(result) = reply.recv() else { return Ok(()) };
                    finish(result?)?;
                }
                let (reply, result) = sync_channel(1);
                if send.send((job, reply)).is_err() {
                    return Ok(());
                }
                pending.push_back(result);
            }
            while let Some(reply) = pending.pop_front() {
                let Ok(result) = reply.recv() else { return Ok(()) };
                finish(result?)?;
            }
            Ok(())
        };
        let result = drive();
        if result.is_err() {
            cancelled.store(true, Ordering::Relaxed);
        }
        drop(send);
        for thread in threads {
            // A reply is lost only when its worker panicked: the panic goes on where it would without threads.
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
        result
    })
}

fn next<T>(receive: &Mutex<Receiver<T>>) -> Option<T> {
    receive.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    fn failure(job: usize) -> Error {
        Error::Read { path: job.to_string(), source: io::Error::other("made up") }
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for count in [0, 1, 5, 100] {
            let worker = |job: usize| {
                std::thread::sleep(Duration::from_micros((job as u64 * 7919) % 500));
                Ok(job)
            };
            let mut results = Vec::new();
            let finish = |job| {
                results.push(job);
                Ok(())
            };
            run(vec![worker; 4], 0..count, finish).unwrap();
            assert!(results.iter().copied().eq(0..count));
        }
    }

    #[test]
    fn no_more_jobs_are_under_way_than_the_window_holds() {
        let (taken, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs = (0..200).inspect(|_| {
            let taken = taken.fetch_add(1, Ordering::SeqCst) + 1;
            // The job being handed over is not under way yet.
            assert!(taken - finished.load(Ordering::SeqCst) <= 2 * JOBS_PER_WORKER + 1);
        });
        let finish = |_| {
            finished.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        run(vec![|job: usize| Ok(job); 2], jobs, finish).unwrap();
        assert_eq!(finished.into_inner(), 200);
    }

    #[test]
    fn the_first_failure_in_the_order_of_the_jobs_is_the_one_returned() {
        let worker = |job: usize| {
            // The later one fails sooner.
            std::thread::sleep(Duration::from_millis(if job == 3 { 20 } else { 0 }));
            if job == 3 || job == 4 { Err(failure(job)) } else { Ok(job) }
        };
        let mut finished = 0;
        let finish = |_| {
            finished += 1;
            Ok(())
        };
        let error = run(vec![worker; 3], 0..1_000_000, finish).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the content of 3");
        assert_eq!(finished, 3);
    }

    #[test]
    fn a_failure_to_finish_stops_the_work() {
        let worked = AtomicUsize::new(0);
        let worker = |job: usize| {
            worked.fetch_add(1, Ordering::SeqCst);
            Ok(job)
        };
        let error = run(vec![worker; 2], 0..1_000_000, |job| Err(failure(job))).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the content of 0");
        assert!(worked.into_inner() <= 2 * JOBS_PER_WORKER);
    }
}

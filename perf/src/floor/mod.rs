//! `floor`: what this machine can do at best. The same bytes to the same number of sockets, by a thread that does nothing
//! else: with a bare loop of `send(2)` and with bare io_uring; and its `fdatasync`. A server's figures are told as ratios
//! to these.
//!
//! ```text
//! plan.rs   what is asked
//!    |
//! this file: the ways take turns -> ring.rs (io_uring), or a loop of `send` -> readers.rs, which count
//!    |                              disk.rs (fdatasync)
//! report.rs what it took
//! ```

mod disk;
mod plan;
mod readers;
mod report;
mod ring;

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::net::SendFlags;
use serde::Serialize;

use crate::median::median;
use crate::process::{CpuTime, own_cpu_ns};
use crate::server::on_cpu;

pub(crate) use self::disk::Place;
pub(crate) use self::plan::{FloorArgs, Plan};
pub(crate) use self::report::{Figure, FloorReport, LeftOut, SyncFigure};
use self::{
    readers::Readers,
    report::Synced,
    ring::{Manner, Ring},
};

/// Batches that may be under way to the readers when the next one is sent, if no rate is asked for.
const AHEAD_MAX: u64 = 2;

/// Batches before each measurement.
const WARM_UP: u64 = 3;

/// How a batch is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// A loop of `send(2)`.
    Send,
    /// io_uring with ringroom's flags.
    IoUring,
    /// The same with registered files.
    RegisteredFiles,
    /// The same with `IORING_SETUP_DEFER_TASKRUN`.
    DeferTaskrun,
    /// The same with `IORING_OP_SEND_ZC`.
    SendZc,
}

impl Way {
    /// All; the first is the one that the others are compared with.
    const ALL: [Self; 5] = [Self::Send, Self::IoUring, Self::RegisteredFiles, Self::DeferTaskrun, Self::SendZc];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::IoUring => "io_uring",
            Self::RegisteredFiles => "registered_files",
            Self::DeferTaskrun => "defer_taskrun",
            Self::SendZc => "send_zc",
        }
    }

    fn manner(self) -> Option<Manner> {
        match self {
            Self::Send => None,
            Self::IoUring => Some(Manner::Plain),
            Self::RegisteredFiles => Some(Manner::RegisteredFiles),
            Self::DeferTaskrun => Some(Manner::DeferTaskrun),
            Self::SendZc => Some(Manner::ZeroCopy),
        }
    }
}

/// Something that sends a batch.
enum Sender<'a> {
    Loop(&'a [TcpStream], &'a [u8]),
    Ring(Box<Ring>),
}

impl<'a> Sender<'a> {
    fn open(way: Way, sockets: &'a [TcpStream], payload: &'static [u8]) -> io::Result<Self> {
        match way.manner() {
            None => Ok(Self::Loop(sockets, payload)),
            Some(manner) => Ring::open(manner, sockets, payload).map(|ring| Self::Ring(Box::new(ring))),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        match self {
            Self::Loop(sockets, payload) => sockets.iter().try_for_each(|socket| send(socket, payload)),
            Self::Ring(ring) => ring.send(),
        }
    }
}

fn send(socket: &TcpStream, payload: &[u8]) -> io::Result<()> {
    match rustix::net::send(socket, payload, SendFlags::NOSIGNAL)? {
        sent if sent == payload.len() => Ok(()),
        sent => Err(io::Error::other(format!("a send stopped after {sent} bytes"))),
    }
}

/// One measurement of a way.
#[derive(Clone, Copy, Debug)]
struct Sample {
    batches: u64,
    seconds: f64,
    /// Of the sending thread.
    cpu_ns: u64,
    /// Of the threads that the kernel started for it.
    worker_ns: u64,
    /// Of the readers' thread.
    reader_ns: u64,
}

/// Measures everything, round by round.
///
/// # Errors
/// There are not enough sockets or files, a send fails, or the disk does.
pub(crate) fn run(plan: &Plan) -> Result<FloorReport, String> {
    // Read by the kernel, and few: they live as long as the process.
    let payload: &'static [u8] = Box::leak(plan.payload.clone().into_boxed_slice());
    // Started out here, for a thread may run where the one may that starts it.
    let readers = Readers::gather(plan.members, plan.client_cpu)?;
    on_cpu(plan.cpu, || {
        let mut run = Run::new(plan, payload, readers);
        let mut synced: Vec<Synced> = Place::ALL.into_iter().map(Synced::new).collect();
        for round in 0..plan.rounds {
            run.round(round)?;
            if let Some(directory) = &plan.directory {
                sync(plan, directory, round, &mut synced)?;
            }
            eprintln!("ringroom-perf: round {} of {}", round + 1, plan.rounds);
        }
        synced.retain(|_| plan.directory.is_some());
        run.end(synced)
    })?
}

fn sync(plan: &Plan, directory: &Path, round: usize, synced: &mut [Synced]) -> Result<(), String> {
    let first = round % synced.len();
    synced.rotate_left(first);
    let measured = synced
        .iter_mut()
        .try_for_each(|one| disk::measure(directory, one.place, plan.write_bytes, plan.time, &mut one.took_ns));
    synced.rotate_right(first);
    measured
}

struct Run<'a> {
    plan: &'a Plan,
    payload: &'static [u8],
    readers: Readers,
    measured: Vec<Measured>,
    left_out: Vec<LeftOut>,
    /// To each socket, so far.
    batches: u64,
}

/// The rounds of one way.
struct Measured {
    way: Way,
    samples: Vec<Sample>,
    batch_ns: Histogram<u64>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, payload: &'static [u8], readers: Readers) -> Self {
        let (mut measured, mut left_out) = (Vec::new(), Vec::new());
        for way in Way::ALL {
            match Sender::open(way, readers.sockets(), payload) {
                Ok(_) => measured.push(Measured { way, samples: Vec::new(), batch_ns: histogram() }),
                Err(error) => left_out.push(LeftOut { way, why: error.to_string() }),
            }
        }
        Self { plan, payload, readers, measured, left_out, batches: 0 }
    }

    /// All ways, another one first in each round.
    fn round(&mut self, round: usize) -> Result<(), String> {
        let first = round % self.measured.len();
        for nth in (first..self.measured.len()).chain(0..first) {
            self.measure(nth)?;
        }
        Ok(())
    }

    fn measure(&mut self, nth: usize) -> Result<(), String> {
        let Self { plan, payload, readers, measured, batches, .. } = self;
        let Measured { way, samples, batch_ns } = &mut measured[nth];
        let failed = |error: io::Error| format!("{}: {error}", way.name());
        let batch_bytes = (plan.members * payload.len()) as u64;
        let mut sender = Sender::open(*way, readers.sockets(), payload).map_err(failed)?;
        for _ in 0..WARM_UP {
            sender.send().map_err(failed)?;
            *batches += 1;
            readers.wait_for(*batches * batch_bytes)?;
        }
        let (own, before) = ([std::process::id()], *batches);
        let (threads, cpu_ns, began) = (CpuTime::read(&own)?, own_cpu_ns(), Instant::now());
        while began.elapsed() < plan.time {
            match plan.rate {
                Some(rate) => {
                    let due = Duration::from_secs_f64((*batches - before) as f64 / rate);
                    sleep_until(began + due.min(plan.time));
                    if due >= plan.time {
                        break;
                    }
                }
                None => readers.wait_for(batches.saturating_sub(AHEAD_MAX) * batch_bytes)?,
            }
            let start = Instant::now();
            sender.send().map_err(failed)?;
            batch_ns.saturating_record(start.elapsed().as_nanos() as u64);
            *batches += 1;
        }
        let (seconds, cpu_ns) = (began.elapsed().as_secs_f64(), own_cpu_ns() - cpu_ns);
        readers.wait_for(*batches * batch_bytes)?;
        let used = CpuTime::read(&own)?.since(&threads);
        let of = |name: &str| used.get(name).copied().unwrap_or(0);
        let (worker_ns, reader_ns) = (of("iou-wrk"), of(readers::THREAD));
        samples.push(Sample { batches: *batches - before, seconds, cpu_ns, worker_ns, reader_ns });
        Ok(())
    }

    fn end(self, synced: Vec<Synced>) -> Result<FloorReport, String> {
        let Self { plan, payload, readers, measured, left_out, batches } = self;
        let want = batches * payload.len() as u64;
        let counts = readers.leave()?;
        let wrong = counts.iter().enumerate().filter(|(_, bytes)| **bytes != want);
        let faults = wrong.map(|(nth, bytes)| format!("socket {} received {bytes} of {want} bytes", nth + 1));
        let figures = measured.iter().map(|one| one.figure(plan, &measured[0])).collect();
        Ok(FloorReport {
            members: plan.members,
            messages: plan.messages,
            send_bytes: payload.len(),
            batches_per_second_asked: plan.rate,
            seconds: plan.time.as_secs_f64(),
            rounds: plan.rounds,
            cpu: plan.cpu,
            client_cpu: plan.client_cpu,
            figures,
            left_out,
            directory: plan.directory.clone(),
            write_bytes: plan.write_bytes,
            fdatasync: synced.iter().map(Synced::figure).collect(),
            bytes_verified: want * plan.members as u64,
            faults: faults.take(10).collect(),
        })
    }
}

fn sleep_until(due: Instant) {
    if let Some(left) = due.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("its bounds are in order, its digits few")
}

impl Measured {
    fn figure(&self, plan: &Plan, yardstick: &Measured) -> Figure {
        let (sends, messages) = (plan.members as f64, plan.messages as f64);
        let of = |figure: &dyn Fn(&Sample) -> f64| median(self.samples.iter().map(figure)).unwrap_or_default();
        let cpu_ns_per_send =
            |sample: &Sample| (sample.cpu_ns + sample.worker_ns) as f64 / sample.batches as f64 / sends;
        let by_round: Vec<f64> = self.samples.iter().map(|sample| cpu_ns_per_send(sample) / messages).collect();
        let ratios = self.samples.iter().zip(&yardstick.samples);
        let ratios = ratios.map(|(ours, send)| cpu_ns_per_send(ours) / cpu_ns_per_send(send));
        let batches_per_second = of(&|sample| sample.batches as f64 / sample.seconds);
        Figure {
            way: self.way,
            cpu_ns_per_delivery: median(by_round.iter().copied()).unwrap_or_default(),
            cpu_ns_per_delivery_by_round: by_round,
            cpu_ns_per_send: of(&cpu_ns_per_send),
            worker_ns_per_send: of(&|sample| sample.worker_ns as f64 / sample.batches as f64 / sends),
            ratio_to_send: median(ratios).unwrap_or_default(),
            sender_busy: of(&|sample| sample.cpu_ns as f64 / 1e9 / sample.seconds),
            reader_busy: of(&|sample| sample.reader_ns as f64 / 1e9 / sample.seconds),
            batches_per_second,
            sends_per_second: batches_per_second * sends,
            deliveries_per_second: batches_per_second * sends * messages,
            batch: crate::report::Latency::of(&self.batch_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::server::Folder;

    fn plan(rate: Option<f64>, directory: Option<&Path>) -> Plan {
        Plan {
            members: 20,
            payload: vec![7; 300],
            messages: 3,
            rate,
            time: Duration::from_millis(30),
            rounds: 2,
            cpu: None,
            client_cpu: None,
            directory: directory.map(Path::to_owned),
            write_bytes: 100,
        }
    }

    #[test]
    fn every_way_sends_every_byte() {
        let report = run(&plan(None, None)).unwrap();
        assert_eq!(report.faults(), [""; 0], "{report}");
        assert_eq!(report.figures.len() + report.left_out.len(), Way::ALL.len(), "{report}");
        assert_eq!((report.figures[0].way, report.figures[0].ratio_to_send), (Way::Send, 1.0));
        assert!(report.figures.iter().any(|figure| figure.way == Way::IoUring), "{report}");
        let batches: u64 = report.figures.iter().map(|figure| figure.batch.count + 2 * WARM_UP).sum();
        assert_eq!(report.bytes_verified, batches * 300 * 20);
        for figure in &report.figures {
            assert!(figure.cpu_ns_per_send > 0.0 && figure.sends_per_second > 0.0, "{figure:?}");
            assert!((figure.cpu_ns_per_delivery * 3.0 / figure.cpu_ns_per_send - 1.0).abs() < 0.01, "{figure:?}");
        }
        assert!(report.fdatasync.is_empty() && report.to_string().contains("--directory"), "{report}");
    }

    #[test]
    fn batches_leave_by_the_clock_and_syncs_are_timed() {
        let folder = Folder::make().unwrap();
        let report = run(&plan(Some(200.0), Some(folder.path()))).unwrap();
        // At 0, 5, … 25 ms, and whichever was late.
        assert!(report.figures.iter().all(|figure| figure.batch.count <= 2 * 7), "{report}");
        let places: Vec<Place> = report.fdatasync.iter().map(|one| one.place).collect();
        assert_eq!(places, Place::ALL);
        assert!(report.fdatasync.iter().all(|one| one.latency.count > 0 && one.latency.p50_us > 0.0), "{report}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its files are gone");
    }

    #[test]
    fn a_round_ends_though_the_next_batch_is_far_off() {
        let began = Instant::now();
        let report = run(&plan(Some(0.001), None)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(60) && report.figures.iter().all(|one| one.batch.count == 2));
    }

    #[test]
    fn a_reader_that_is_gone_is_told() {
        let readers = Readers::gather(2, None).unwrap();
        readers.sockets()[0].shutdown(std::net::Shutdown::Both).unwrap();
        readers.sockets()[1].shutdown(std::net::Shutdown::Both).unwrap();
        let error = readers.wait_for(1).unwrap_err();
        assert!(error.contains("0 of 1 bytes"), "{error}");
    }
}

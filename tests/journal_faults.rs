//! The promises of a shard's journal on a disk that fails, does things by halves, takes its time, is full, and loses its
//! power: whatever is reported held is read by the writer's tail at once and found by recovery afterwards, once, in order
//! and as it was; and every record is reported, once.
//!
//! A small script makes a journal go over several segments and use files again. Each operation of it, and each pair, comes to
//! harm in every way; and it is broken off after every step.
//!
//! And what is reported *not* held is never found again, whenever and however the server ends. Mostly it was never written.
//! Where the disk failed twice in a row it may have been, and then nothing is reported before the disk has forgotten it.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringroom::{
    identity::UserId,
    journal::{
        Leftovers, Progress,
        appender::{Appender, Op, Outcome, Rules},
        place::Place,
        record::{Record, decode_all, encoded_len},
        recovery::recover,
        segment::file_name,
        tail::{Damage, Limits, Tail},
    },
    store::Row,
    writer::{Backlog, Batch},
};
use support::{
    disk::{Disk, Fate},
    random,
};
use uuid::Uuid;

const SYNC: Rules =
    Rules { shard: 0, segment_bytes: 96 * 1024, segments_max: 4, record_bytes_max: 4 * 1024, sync: true };
const NO_SYNC: Rules = Rules { sync: false, ..SYNC };
const LIMITS: Limits = Limits { records: 50, bytes: 64 * 1024 };

/// A data directory of one run's own, in memory where there is such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let shared = PathBuf::from("/dev/shm");
        let parent = if shared.is_dir() { shared } else { env::temp_dir() };
        Folder(parent.join(format!("ringroom-{}", Uuid::new_v4())))
    }

    /// The numbers of the messages that recovery finds, in its order.
    fn recover(&self, is_holed: bool) -> Vec<u64> {
        let recovered = recover(&Place::take(&self.0).unwrap()).unwrap();
        assert!(is_holed || recovered.damaged.is_empty(), "{:?}", recovered.damaged);
        let mut found = Vec::new();
        for old in recovered.segments {
            for range in &old.ranges {
                found.extend(numbers(&old.read(range.clone()).unwrap()));
            }
        }
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What message `number` says. Some are short, and some are nearly as long as may be.
fn text(number: u64) -> String {
    let words = format!("{number} ");
    words.repeat([3800, 4, 3000, 3900, 3700][number as usize % 5] / words.len())
}

/// The numbers of the messages in these bytes, each of which is as it was.
fn numbers(records: &[u8]) -> Vec<u64> {
    let number = |record: Record<'_>| {
        let number = record.row.id.as_u128() as u64;
        assert_eq!(record.row.content, text(number));
        number
    };
    decode_all(records).map(number).collect()
}

/// What comes to harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Fails,
    Halves,
    /// It is done, and three steps too late, while others are done in the meantime.
    Waits,
}

const HARMS: [Harm; 3] = [Harm::Fails, Harm::Halves, Harm::Waits];
const DELAY_STEPS: usize = 3;

#[derive(Clone, Copy)]
enum Step {
    /// A turn of so many messages.
    Turn(u64),
    /// The writer has saved what it has read.
    Save,
    Tick,
}

use Step::{Save, Tick, Turn};

/// Over four segments, the later ones in files of earlier ones.
#[rustfmt::skip]
const SCRIPT: &[Step] = &[
    Turn(1), Turn(9), Turn(9), Tick, Turn(10), Turn(10), Turn(3), Save, Turn(10), Turn(10), Tick, Turn(10), Save, Turn(10),
    Turn(10), Tick, Turn(10), Save, Turn(10), Turn(10),
];

/// The same in fewer and greater steps.
const SHORT: &[Step] = &[Turn(12), Turn(20), Tick, Turn(20), Save, Turn(20), Save, Turn(15), Turn(15)];

/// A journal at work on such a disk.
struct Run {
    appender: Appender,
    progress: Arc<Progress>,
    tail: Tail,
    disk: Disk,
    folder: Folder,
    step: usize,
    /// Operations by the order in which they were begun, and what comes to harm of them.
    begun: usize,
    harms: Vec<(usize, Harm)>,
    /// Beside these, every cut fails.
    cuts_fail: bool,
    /// Of those, one was the making of a file.
    harmed_files: bool,
    /// With the step before which they are not done.
    under_way: Vec<(Op, Fate, usize)>,
    said: u64,
    held: Vec<u64>,
    refused: Vec<u64>,
    read: Vec<u64>,
    /// The last one that was saved.
    saved: u64,
}

impl Run {
    fn new(rules: Rules, harms: &[(usize, Harm)]) -> Run {
        let folder = Folder::new();
        let place = Place::take(&folder.0).unwrap();
        let progress = Arc::new(Progress::default());
        let appender = Appender::new(rules, Arc::clone(&progress), 1, 1);
        Run {
            appender,
            tail: Tail::new(place.directory(), 0, Arc::clone(&progress)),
            progress,
            disk: Disk::new(place.directory(), rules.segment_bytes),
            folder,
            step: 0,
            begun: 0,
            harms: harms.to_vec(),
            cuts_fail: false,
            harmed_files: false,
            under_way: Vec::new(),
            said: 0,
            held: Vec::new(),
            refused: Vec::new(),
            read: Vec::new(),
            saved: 0,
        }
    }

    /// Says so many messages, or as many as there is room for.
    fn say(&mut self, count: u64) -> u64 {
        for said in 0..count {
            let number = self.said + 1;
            let content = &text(number);
            if !self.appender.has_room(encoded_len(3, content.len())) {
                return said;
            }
            let (id, sender) = (Uuid::from_u128(number.into()), UserId::Int(1));
            let row = Row { id, room: Uuid::nil(), sender, receiver: None, timestamp: number as i64, content };
            assert_eq!(self.appender.append(&Record { row, sender_username: "ann" }), number);
            self.said = number;
        }
        count
    }

    fn pump(&mut self) {
        while let Some(op) = self.appender.next_op() {
            self.disk.begin(&op);
            let harm = self.harms.iter().find(|(nth, _)| *nth == self.begun).map(|(_, harm)| *harm);
            let (fate, due) = match harm {
                None if self.cuts_fail && matches!(op, Op::Cut { .. }) => (Fate::Fails, self.step),
                None => (Fate::Done, self.step),
                Some(Harm::Fails) => (Fate::Fails, self.step),
                Some(Harm::Halves) => (Fate::Halves, self.step),
                Some(Harm::Waits) => (Fate::Done, self.step + DELAY_STEPS),
            };
            self.begun += 1;
            self.harmed_files |= harm.is_some() && matches!(op, Op::Prepare { .. });
            self.under_way.push((op, fate, due));
            assert!(self.under_way.len() <= 4, "one of each kind");
        }
    }

    /// The oldest operation that is due is done, or fails.
    fn end_one(&mut self) {
        if let Some(place) = self.under_way.iter().position(|(_, _, due)| *due <= self.step) {
            self.end(place);
        }
    }

    fn end(&mut self, place: usize) {
        let (op, fate, _) = self.under_way.remove(place);
        let (done, is_ok) = self.disk.end(&op, fate);
        self.appender.done(done, is_ok);
        for Outcome { sequences, is_held } in self.appender.outcomes() {
            let told = if is_held { &mut self.held } else { &mut self.refused };
            told.extend(RangeInclusive::clone(&sequences));
        }
        self.pump();
        self.follow();
    }

    /// The writer reads what is held: that, and all of it.
    fn follow(&mut self) {
        let mut aside = |damage: &_| panic!("{damage:?}");
        while let Some(piece) = self.tail.read(LIMITS, &mut aside).unwrap() {
            self.read.extend(numbers(&piece.records));
        }
        assert!(self.read == self.held, "read {:?}, held {:?}", self.read, self.held);
    }

    fn save(&mut self) {
        self.tail.saved(self.tail.position());
        self.saved = self.held.last().copied().unwrap_or(0);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Turn(count) => _ = self.say(count),
            Step::Save => self.save(),
            Step::Tick => self.appender.tick(),
        }
        self.appender.end_turn();
        self.pump();
        (0..2).for_each(|_| self.end_one());
        self.step += 1;
    }

    /// Lets everything end.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.appender.tick();
            self.pump();
            while !self.under_way.is_empty() {
                self.step += 1;
                self.end_one();
            }
        }
        assert!(self.appender.is_idle(), "something waits for ever");
        self.check_outcomes();
    }

    /// Every message was answered, and once; what is held, in order.
    fn check_outcomes(&self) {
        assert!(self.held.is_sorted(), "{:?}", self.held);
        let mut told = BTreeMap::<u64, usize>::new();
        self.held.iter().chain(&self.refused).for_each(|number| *told.entry(*number).or_default() += 1);
        let expected: BTreeMap<u64, usize> = (1..=self.said).map(|number| (number, 1)).collect();
        assert_eq!(told, expected, "not each was answered once");
    }

    /// `kill -9`: what recovery finds in the files as they are.
    fn killed(&self) -> Vec<u64> {
        self.folder.recover(false)
    }

    /// What recovery finds after a loss of power. With `lucky` any sectors reached the disk, also of what is under way.
    /// What was not held then has holes, which recovery takes for damage.
    fn lost_power(&mut self, lucky: Option<&mut StdRng>) -> Vec<u64> {
        let is_holed = lucky.is_some();
        if is_holed {
            for (op, _, _) in &self.under_way {
                if let Op::Write { number, offset, bytes } = op {
                    self.disk.write(*number, *offset, bytes);
                }
            }
        }
        self.disk.lose_power(lucky);
        self.folder.recover(is_holed)
    }

    /// What is held and not saved was found, once and in order, and nothing that was refused.
    fn check_found(&self, found: &[u64]) {
        let held: Vec<_> = found.iter().filter(|number| self.held.binary_search(number).is_ok()).collect();
        assert!(held.is_sorted_by(|one, next| one < next), "held ones twice, or out of order: {found:?}");
        for number in self.held.iter().filter(|number| **number > self.saved) {
            assert!(held.binary_search(&number).is_ok(), "{number} was held, and is lost: {found:?}");
        }
        let back: Vec<_> = found.iter().filter(|number| self.refused.contains(number)).collect();
        assert!(back.is_empty(), "refused, and found: {back:?}");
        assert!(found.iter().all(|number| *number <= self.said));
    }
}

/// The script with these harms, and afterwards a disk that works: everything in order, and nothing refused comes back.
fn run_whole(rules: Rules, script: &[Step], harms: &[(usize, Harm)]) -> Run {
    let mut run = Run::new(rules, harms);
    script.iter().for_each(|step| run.take(*step));
    run.settle();
    run.harms.clear();
    if !run.appender.has_room(rules.record_bytes_max) {
        run.save();
    }
    run.settle();
    assert_eq!(run.say(1), 1, "it takes messages again");
    run.appender.end_turn();
    run.settle();
    assert_eq!(run.held.last(), Some(&run.said), "and holds them");
    assert!(run.disk.files() <= rules.segments_max as usize + 1);
    run.check_found(&run.killed());
    run
}

/// How many operations a script takes on a disk that works.
fn operations(rules: Rules, script: &[Step]) -> usize {
    let run = run_whole(rules, script, &[]);
    assert!(run.refused.is_empty(), "a disk that works refuses nothing");
    assert!(run.progress.held().segment >= 4, "{}", run.progress.held());
    run.begun
}

/// With what went wrong before the panic.
fn shown(harms: &[(usize, Harm)], run: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        eprintln!("that was with {harms:?}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn any_operation_may_come_to_harm() {
    for rules in [SYNC, NO_SYNC] {
        let mut runs = 0;
        for nth in 0..operations(rules, SCRIPT) {
            for harm in HARMS {
                let harms = [(nth, harm)];
                shown(&harms, || {
                    let run = run_whole(rules, SCRIPT, &harms);
                    assert!(
                        run.harmed_files || run.refused.is_empty(),
                        "a write or sync that fails once is done elsewhere"
                    );
                });
                runs += 1;
            }
        }
        println!("{runs} runs, sync {}", rules.sync);
    }
}

fn any_two_operations(rules: Rules) {
    let (mut runs, mut with_refusals) = (0, 0);
    let operations = operations(rules, SHORT);
    for first in 0..operations {
        for second in first + 1..operations + 4 {
            for harm in HARMS {
                for other in HARMS {
                    let harms = [(first, harm), (second, other)];
                    shown(&harms, || {
                        with_refusals += usize::from(!run_whole(rules, SHORT, &harms).refused.is_empty());
                    });
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs, {with_refusals} of them with refusals");
    assert!(with_refusals > 0 && with_refusals < runs / 2);
}

#[test]
fn any_two_operations_may_come_to_harm() {
    any_two_operations(SYNC);
}

#[test]
fn any_two_operations_may_come_to_harm_without_syncs() {
    any_two_operations(NO_SYNC);
}

#[test]
fn what_is_held_survives_a_loss_of_power_after_every_step() {
    let mut random = random();
    for steps in 0..=SCRIPT.len() {
        for lucky in 0..6 {
            let mut run = Run::new(SYNC, &[]);
            SCRIPT[..steps].iter().for_each(|step| run.take(*step));
            let found = match lucky {
                0 => run.lost_power(None),
                _ => run.lost_power(Some(&mut random)),
            };
            run.check_found(&found);
        }
    }
}

#[test]
fn without_syncs_what_is_held_survives_a_kill_after_every_step() {
    for steps in 0..=SCRIPT.len() {
        let mut run = Run::new(NO_SYNC, &[]);
        SCRIPT[..steps].iter().for_each(|step| run.take(*step));
        assert!(run.under_way.iter().all(|(op, _, _)| !matches!(op, Op::Sync { .. })));
        run.check_found(&run.killed());
    }
}

#[test]
fn what_is_held_survives_any_crash_on_a_disk_that_fails() {
    const CRASHES: usize = 450;
    let mut random = random();
    let mut refusals = 0;
    for crash in 0..CRASHES {
        let rules = [SYNC, SYNC, NO_SYNC][crash % 3];
        let mut run = Run::new(rules, &[]);
        let harms = [0.0, 0.03, 0.3][random.random_range(0..3)];
        for _ in 0..random.random_range(5..60) {
            harm_some(&mut run, harms, &mut random);
            run.take(match random.random_range(0..10) {
                0 => Step::Save,
                1..4 => Step::Tick,
                _ => Step::Turn(random.random_range(1..12)),
            });
            assert!(run.disk.files() <= rules.segments_max as usize + 1);
        }
        let found = match crash % 3 {
            0 => run.lost_power(None),
            1 => run.lost_power(Some(&mut random)),
            _ => run.killed(),
        };
        refusals += usize::from(!run.refused.is_empty());
        run.check_found(&found);
    }
    println!("{CRASHES} crashes, {refusals} after refusals");
    assert!(refusals > 0);
}

/// Of the operations to come some will be harmed.
fn harm_some(run: &mut Run, share: f64, random: &mut StdRng) {
    run.harms.clear();
    for nth in run.begun..run.begun + 8 {
        if random.random_bool(share) {
            run.harms.push((nth, HARMS[random.random_range(0..HARMS.len())]));
        }
    }
}

#[test]
fn a_disk_that_gets_better_again_answers_everything() {
    let mut random = random();
    for _ in 0..150 {
        let mut run = Run::new([SYNC, NO_SYNC][random.random_range(0..2)], &[]);
        for _ in 0..30 {
            harm_some(&mut run, 0.3, &mut random);
            run.take(match random.random_range(0..8) {
                0 => Step::Save,
                1 => Step::Tick,
                _ => Step::Turn(random.random_range(1..12)),
            });
        }
        run.harms.clear();
        run.settle();
        run.save();
        run.settle();
        assert_eq!(run.say(3), 3, "it takes messages again");
        run.appender.end_turn();
        run.settle();
        assert!(run.held.ends_with(&[run.said]));
        run.check_found(&run.killed());
    }
}

#[test]
fn what_was_written_in_vain_is_refused_only_when_it_cannot_be_found_any_more() {
    for (rules, sweeps) in [(NO_SYNC, false), (SYNC, false), (NO_SYNC, true), (SYNC, true)] {
        assert!(doubtful(rules).killed().len() > 5, "a crash here would bring some of it back");
        let mut run = doubtful(rules);
        if sweeps {
            Place::take(&run.folder.0).unwrap().sweep(0, 1, &run.progress).unwrap();
            assert_eq!(run.killed().len(), 5, "the end of a server does not");
            continue;
        }
        for _ in 0..5 {
            step(&mut run);
            assert!(run.refused.is_empty() && !run.appender.is_idle(), "nobody knows, so nobody is told");
            assert_eq!(run.say(1), 0, "and nothing more is taken");
        }
        run.harms.clear();
        run.settle();
        assert_eq!((run.held.len(), run.refused.len()), (5, 5));
        run.check_found(&run.killed());
    }
}

#[test]
fn what_was_written_in_vain_is_refused_when_something_later_is_held() {
    for rules in [NO_SYNC, SYNC] {
        let mut run = doubtful(rules);
        // Every cut fails from now on, and nothing else does.
        run.harms.clear();
        run.cuts_fail = true;
        for _ in 0..5 {
            step(&mut run);
        }
        assert_eq!((run.say(2), run.refused.len()), (2, 0));
        run.appender.end_turn();
        for _ in 0..5 {
            step(&mut run);
        }
        assert_eq!((run.held.len(), run.refused.len()), (7, 5));
        let found = if rules.sync { run.lost_power(None) } else { run.killed() };
        run.check_found(&found);
    }
}

/// A tick, and time for what follows of it.
fn step(run: &mut Run) {
    run.appender.tick();
    run.pump();
    for _ in 0..8 {
        run.step += 1;
        run.end_one();
    }
}

/// Something is held; then a write fails, what it held fails again in the next segment, and so does all that follows.
fn doubtful(rules: Rules) -> Run {
    let mut run = Run::new(rules, &[]);
    run.take(Step::Turn(5));
    run.settle();
    run.harms = (run.begun..run.begun + 200).map(|nth| (nth, Harm::Halves)).collect();
    run.take(Step::Turn(5));
    step(&mut run);
    assert_eq!((run.held.len(), run.refused.len()), (5, 0));
    run
}

#[test]
fn a_disk_without_room_for_a_file_refuses_until_there_is_room() {
    let mut run = Run::new(SYNC, &[]);
    run.take(Step::Turn(1));
    run.settle();
    let refuse_files = |run: &mut Run| {
        run.pump();
        for (op, fate, _) in &mut run.under_way {
            if matches!(op, Op::Prepare { .. }) {
                *fate = Fate::Fails;
            }
        }
        run.end_one();
    };
    let mut asked = 0;
    for _ in 0..40 {
        run.step += 1;
        run.say(10);
        run.appender.end_turn();
        let begun = run.begun;
        (0..6).for_each(|_| refuse_files(&mut run));
        asked += run.begun - begun;
        run.appender.tick();
    }
    assert!(run.held.len() > 20, "one file was there, and one was ready");
    assert_eq!(run.said as usize, run.held.len() + run.refused.len());
    assert!(asked < 40 * 3, "it is asked for again at every tick, and not more often: {asked}");
    assert_eq!(run.say(1), 0, "nothing is taken on the chance that there might be room");
    let refused = run.refused.len();
    run.settle();
    assert_eq!(run.say(10), 10);
    run.appender.end_turn();
    run.settle();
    assert_eq!((run.refused.len(), run.held.last()), (refused, Some(&run.said)));
    run.check_found(&run.killed());
}

#[test]
fn what_a_failure_at_the_bound_leaves_no_room_for_is_refused() {
    for rules in [SYNC, NO_SYNC] {
        let mut run = Run::new(rules, &[]);
        while run.say(1) == 1 {
            run.appender.end_turn();
            run.pump();
            run.end_one();
            // The last ones wait when the disk fails.
            if run.progress.held().segment == rules.segments_max && run.harms.is_empty() {
                run.harms.push((run.begun + 4, Harm::Halves));
            }
        }
        run.settle();
        assert!(!run.refused.is_empty(), "nobody is kept waiting until the database is back");
        run.save();
        run.settle();
        assert_eq!(run.say(1), 1);
        run.appender.end_turn();
        run.settle();
        run.check_found(&run.killed());
    }
}

/// The bound, and nothing else: a disk that works, and a database that is away.
#[test]
fn what_was_taken_before_the_bound_is_held() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut run = Run::new([SYNC, NO_SYNC][seed as usize % 2], &[]);
        for _ in 0..200 {
            run.say(random.random_range(1..30));
            run.appender.end_turn();
            run.pump();
            (0..random.random_range(0..4)).for_each(|_| run.end_one());
        }
        assert_eq!(run.say(5), 0, "it has a bound");
        run.settle();
        assert!(run.refused.is_empty() && run.disk.files() == SYNC.segments_max as usize);
        run.check_found(&run.killed());
    }
}

/// A journal of three segments, of which nothing is saved.
fn unsaved() -> Run {
    let mut run = Run::new(NO_SYNC, &[]);
    for _ in 0..8 {
        run.take(Step::Turn(10));
        run.settle();
    }
    assert_eq!(run.progress.held().segment, 3);
    run
}

fn segment_of(run: &Run, number: u32) -> PathBuf {
    run.folder.0.join("journal").join(file_name(0, number))
}

/// What the writer reads from the beginning, and what it keeps aside.
fn read_again(run: &Run) -> (Vec<u64>, Vec<Damage>) {
    let (mut read, mut damaged) = (Vec::new(), Vec::new());
    let mut tail = Tail::new(&run.folder.0.join("journal"), 0, Arc::clone(&run.progress));
    let mut aside = |damage: &Damage| {
        let Damage { path, offset, bytes } = damage;
        damaged.push(Damage { path: path.clone(), offset: *offset, bytes: bytes.clone() });
        Ok(())
    };
    while let Some(piece) = tail.read(LIMITS, &mut aside).unwrap() {
        read.extend(numbers(&piece.records));
    }
    assert_eq!(tail.position(), run.progress.held());
    (read, damaged)
}

#[test]
fn harm_to_a_live_segment_costs_the_records_that_it_hits() {
    let run = unsaved();
    let path = |number| segment_of(&run, number);
    let whole: Vec<_> = (1..=3).map(|number| fs::read(path(number)).unwrap()).collect();
    let find = |text: &str| whole[0].windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    let lost = |lost: &[u64]| run.held.iter().copied().filter(|number| !lost.contains(number)).collect::<Vec<_>>();
    for (file, at, expected) in [
        (1, find("7 7 7 7"), lost(&[7])),
        // A header tells where the segment before ends; without it the records do.
        (2, 40, lost(&[])),
        (3, 9, lost(&[])),
    ] {
        let mut harmed = whole[file - 1].clone();
        harmed[at] ^= 0x10;
        fs::write(path(file as u32), harmed).unwrap();
        let (read, damaged) = read_again(&run);
        assert_eq!((read, damaged.len(), &damaged[0].path), (expected, 1, &path(file as u32)));
        fs::write(path(file as u32), &whole[file - 1]).unwrap();
    }
    // Somebody cuts it short.
    fs::write(path(1), &whole[0][..find("7 7 7 7")]).unwrap();
    let (read, damaged) = read_again(&run);
    assert_eq!(read[..7], [1, 2, 3, 4, 5, 6, read[6]]);
    assert!(read.is_sorted() && read[6] > 20 && damaged.len() == 1, "{read:?}");
}

#[test]
fn a_file_that_cannot_be_read_for_a_while_costs_nothing() {
    let run = unsaved();
    let (path, away) = (segment_of(&run, 3), run.folder.0.join("away"));
    let tail = Tail::new(&run.folder.0.join("journal"), 0, Arc::clone(&run.progress));
    let mut backlog = Backlog::new(vec![tail], Leftovers::default(), Limits { records: 1000, bytes: 1024 * 1024 });
    let mut aside = |damage: &_| panic!("{damage:?}");
    let mut read = Vec::new();
    fs::rename(&path, &away).unwrap();
    // What was read before it came to the gap must not be dropped with the error.
    let until = Instant::now() + Duration::from_secs(60);
    let mut failures = 0;
    while failures < 3 {
        let batch = backlog.read(&mut aside);
        failures += batch.failures;
        batch.chunks.iter().for_each(|chunk| read.extend(numbers(&chunk.records)));
        backlog.saved(batch.chunks);
        assert!(Instant::now() < until, "it is tried again");
    }
    assert!(!read.is_empty(), "what lies before the gap is not kept waiting");
    fs::rename(&away, &path).unwrap();
    while backlog.is_behind() {
        assert!(Instant::now() < until, "it goes on when it can be read");
        let Batch { chunks, .. } = backlog.read(&mut aside);
        chunks.iter().for_each(|chunk| read.extend(numbers(&chunk.records)));
        backlog.saved(chunks);
    }
    assert_eq!(read, run.held);
    assert_eq!(run.progress.saved(), run.progress.held());
}

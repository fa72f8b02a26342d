//! What a load needs, by the unit costs of a machine. Pure arithmetic: costs and a profile in, figures out. Every figure is
//! of the busiest time, but for what a day leaves in the database.

use serde::Serialize;

use super::costs::{Fitted, Setup};
use super::demand::{Class, Demand, record_bytes};
use super::model::{State, groups};
use super::profile::Profile;
use crate::report::grouped;

/// The most shards that a server has.
const SHARDS_MAX: usize = ringroom::limits::SHARDS_MAX;
/// Members of a room on one shard by ringroom's default, before others take some.
const SPILL_MEMBERS: f64 = 512.0;
/// What a thread that is alone in its work may be busy before what it does falls behind.
const THREAD_BUSY_MAX: f64 = 0.7;
/// The default of `journal_bytes_max`.
const JOURNAL_BYTES_MAX: f64 = (1u64 << 30) as f64;
/// The default of `lag_bytes_max`.
const LAG_BYTES_MAX: f64 = (1u64 << 20) as f64;
/// A prediction that was further off than that, at the median, is told with every plan.
const ERROR_TOLD: f64 = 0.15;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) connections: f64,
    pub(crate) rooms: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// How busy a shard may be, by the profile or by the knee.
    pub(crate) target_utilisation: f64,
    pub(crate) knee_utilisation: Option<f64>,
    /// Absent where no number of shards is enough.
    pub(crate) shards: Option<Shards>,
    /// Kinds of rooms of which one is too much for a core.
    pub(crate) hot_rooms: Vec<HotRoom>,
    pub(crate) writer_cores: f64,
    pub(crate) control_cores_while_connecting: f64,
    pub(crate) database_cores: Option<f64>,
    /// CPUs for ringroom, its database aside unless that is SQLite.
    pub(crate) cpus: Option<usize>,
    pub(crate) memory: MemoryNeed,
    pub(crate) network_bytes_per_second: f64,
    pub(crate) journal: Option<JournalNeed>,
    pub(crate) database: DatabaseNeed,
    pub(crate) reconnect_seconds_least: f64,
    pub(crate) warnings: Vec<String>,
}

/// Enough shards, and the busiest of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Shards {
    pub(crate) count: usize,
    /// Of the busiest: of one core.
    pub(crate) utilisation: f64,
    pub(crate) cycle_us: f64,
    pub(crate) messages_per_send: f64,
    pub(crate) sends_per_second: f64,
    pub(crate) connections: f64,
    pub(crate) messages_per_second: f64,
    /// How much more than the mean the busiest carries, for rooms fall on shards by chance.
    pub(crate) above_mean: f64,
    /// Of all, were they as busy as the mean.
    pub(crate) cores_of_all: f64,
    /// How many times as much may be said until the busiest is at the knee.
    pub(crate) times_until_knee: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    #[serde(skip)]
    pub(crate) state: State,
}

/// A kind of room of which one, on one core, is above the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HotRoom {
    pub(crate) name: String,
    /// Of one core.
    pub(crate) utilisation: f64,
    pub(crate) members: f64,
    /// The setting with which it is spread over all shards.
    pub(crate) spill_members: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MemoryNeed {
    pub(crate) fixed_bytes: f64,
    pub(crate) connections_bytes: f64,
    pub(crate) rooms_bytes: f64,
    pub(crate) working_bytes: f64,
    /// ringroom's, all of the above.
    pub(crate) resident_bytes: f64,
    pub(crate) kernel_bytes: f64,
    /// What logs could take beside, if in every room somebody stopped reading.
    pub(crate) logs_bytes_max: f64,
}

/// What the journals write.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct JournalNeed {
    pub(crate) bytes_per_second: f64,
    /// As whole pages.
    pub(crate) disk_bytes_per_second: f64,
    pub(crate) writes_per_second: f64,
    pub(crate) syncs_per_second: f64,
    /// How long the default bound lasts while the database is away.
    pub(crate) seconds_without_database: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DatabaseNeed {
    pub(crate) rows_per_second: f64,
    /// Over the day.
    pub(crate) rows_per_second_average: f64,
    pub(crate) transactions_per_second: f64,
    /// At the day's average.
    pub(crate) bytes_per_day: f64,
    pub(crate) log_bytes_per_second: Option<f64>,
}

/// What `profile` needs on such a machine.
pub(crate) fn plan(setup: &Setup, costs: &Fitted, profile: &Profile) -> Answer {
    let (peak, average) = (profile.peak(), profile.average());
    let target_utilisation = profile.target_utilisation.unwrap_or_else(|| costs.curve.target());
    let hot_rooms = hot_rooms(costs, profile, target_utilisation);
    let spilled: Vec<bool> = profile
        .rooms
        .iter()
        .zip(&peak.classes)
        .map(|(rooms, class)| class.members > SPILL_MEMBERS || hot_rooms.iter().any(|hot| hot.name == rooms.name))
        .collect();
    let shards = (1..=SHARDS_MAX).map(|count| shards(costs, &peak, &spilled, count));
    let is_soon = |shards: &Shards| profile.p99_ms.zip(shards.p99_us).is_none_or(|(most, p99_us)| p99_us <= most * 1e3);
    let shards = shards.into_iter().find(|shards| shards.utilisation <= target_utilisation && is_soon(shards));
    let writer_cores = costs.writer.cores(&peak);
    let connections = peak.connections();
    let of_shards = costs.admission.shard_ns / shards.as_ref().map_or(1.0, |shards| shards.count as f64);
    let reconnect_seconds_least = connections * of_shards.max(costs.admission.control_ns) / 1e9;
    let mut answer = Answer {
        connections,
        rooms: peak.rooms(),
        messages_per_second: peak.messages(),
        deliveries_per_second: peak.deliveries(),
        target_utilisation,
        knee_utilisation: costs.curve.knee_utilisation(),
        cpus: shards.as_ref().map(|shards| cpus(costs, &peak, shards, writer_cores, target_utilisation)),
        hot_rooms,
        writer_cores,
        control_cores_while_connecting: connections * costs.admission.control_ns / 1e9 / profile.reconnect_seconds,
        database_cores: costs.database.map(|database| database.cores(&peak)),
        memory: memory(costs, &peak, shards.as_ref().map_or(1, |shards| shards.count)),
        network_bytes_per_second: peak.sent_bytes(),
        journal: shards.as_ref().and_then(|shards| journal(setup, costs, &peak, &spilled, shards.count)),
        database: DatabaseNeed {
            rows_per_second: peak.messages(),
            rows_per_second_average: average.messages(),
            transactions_per_second: costs.writer.transactions(&peak),
            bytes_per_day: 86_400.0
                * average.sum(|class| class.messages_per_second * costs.storage.message_bytes(class.text_bytes)),
            log_bytes_per_second: costs.storage.log_bytes_per_message.map(|bytes| bytes * peak.messages()),
        },
        shards,
        reconnect_seconds_least,
        warnings: Vec::new(),
    };
    answer.warnings = warnings(setup, costs, profile, &peak, &answer);
    answer
}

/// Kinds of rooms of which one by itself is above the target.
fn hot_rooms(costs: &Fitted, profile: &Profile, target_utilisation: f64) -> Vec<HotRoom> {
    let peak = profile.peak();
    let hot = profile.rooms.iter().zip(&peak.classes).filter_map(|(rooms, class)| {
        let one = Demand { classes: vec![Class { rooms: 1.0, ..*class }] };
        let utilisation = costs.shard.settle(&one, 0.0).cores;
        let parts = (utilisation / target_utilisation).ceil() + 1.0;
        let spill_members = (class.members / parts).floor().clamp(1.0, SPILL_MEMBERS);
        let hot = HotRoom { name: rooms.name.clone(), utilisation, members: class.members, spill_members };
        (utilisation > target_utilisation).then_some(hot)
    });
    hot.collect()
}

/// What the mean one of `count` shards is asked.
fn part(peak: &Demand, spilled: &[bool], count: usize) -> Demand {
    let count = count as f64;
    let classes = peak.classes.iter().zip(spilled).flat_map(|(class, is_spilled)| {
        if !is_spilled {
            return vec![Class { rooms: class.rooms / count, ..*class }];
        }
        // Everyone has a part of the members; one of them is at home, the others have replicas.
        let members = class.members / count;
        let home = Class { rooms: class.rooms / count, members, ..*class };
        vec![home, Class { rooms: class.rooms - home.rooms, here: 0.0, ..home }]
    });
    Demand { classes: classes.collect() }
}

/// How much more than the mean the busiest of `count` shards is likely to have: rooms fall on shards by a hash, and the
/// larger of few rooms make more of a difference. The highest of `count` normal deviations is about `sqrt(2 ln count)`.
fn above_mean(peak: &Demand, spilled: &[bool], count: usize) -> f64 {
    let count = count as f64;
    let load = |class: &Class| class.messages_per_second * (1.0 + class.members);
    let whole = peak.classes.iter().zip(spilled).filter(|(_, is_spilled)| !**is_spilled).map(|(class, _)| class);
    let squares: f64 = whole.map(|class| class.rooms * load(class).powi(2)).sum();
    let mean = peak.sum(load) / count;
    if mean <= 0.0 {
        return 0.0;
    }
    // A sum of nothing is -0.
    (2.0 * count.ln()).sqrt() * (squares.abs() * (1.0 - 1.0 / count) / count).sqrt() / mean
}

fn shards(costs: &Fitted, peak: &Demand, spilled: &[bool], count: usize) -> Shards {
    let mean = part(peak, spilled, count);
    // Never more than all there is.
    let above_mean = above_mean(peak, spilled, count).min(count as f64 - 1.0);
    let more = |class: &Class| Class { rooms: class.rooms * (1.0 + above_mean), ..*class };
    let busiest = Demand { classes: mean.classes.iter().map(more).collect() };
    let state = costs.shard.settle(&busiest, 0.0);
    let latency = costs.curve.expect(&state, 0.0, costs.shard.longest_seconds(&busiest));
    let knee = costs.curve.knee_utilisation();
    Shards {
        count,
        utilisation: state.cores,
        cycle_us: state.cycle_seconds * 1e6,
        messages_per_send: if state.work.sends > 0.0 { busiest.deliveries() / state.work.sends } else { 0.0 },
        sends_per_second: state.work.sends,
        connections: busiest.connections(),
        messages_per_second: busiest.messages(),
        above_mean,
        cores_of_all: costs.shard.settle(&mean, 0.0).cores * count as f64,
        times_until_knee: knee.map(|knee| costs.shard.headroom(&busiest, |_| 0.0, knee)),
        p50_us: latency.map(|latency| latency.p50_us),
        p99_us: latency.map(|latency| latency.p99_us),
        state,
    }
}

/// One CPU where everything fits on one, as in the sweep; otherwise one a shard, and what writer and control need.
fn cpus(costs: &Fitted, peak: &Demand, shards: &Shards, writer_cores: f64, target_utilisation: f64) -> usize {
    let together = costs.shard.settle(peak, writer_cores).cores + writer_cores;
    let is_one_enough = shards.count == 1 && together <= target_utilisation;
    if is_one_enough { 1 } else { shards.count + (writer_cores / THREAD_BUSY_MAX).ceil().max(1.0) as usize }
}

fn memory(costs: &Fitted, peak: &Demand, shards: usize) -> MemoryNeed {
    let memory = &costs.memory;
    let connections_bytes = memory.connection_bytes * peak.connections();
    let rooms_bytes = memory.room_bytes * peak.rooms();
    let working_bytes = memory.working_bytes * shards as f64;
    MemoryNeed {
        fixed_bytes: memory.fixed_bytes,
        connections_bytes,
        rooms_bytes,
        working_bytes,
        resident_bytes: memory.fixed_bytes + connections_bytes + rooms_bytes + working_bytes,
        kernel_bytes: memory.kernel_connection_bytes * peak.connections(),
        logs_bytes_max: LAG_BYTES_MAX * peak.sum(|class| f64::from(u8::from(class.messages_per_second > 0.0))),
    }
}

fn journal(setup: &Setup, costs: &Fitted, peak: &Demand, spilled: &[bool], shards: usize) -> Option<JournalNeed> {
    let is_kept = matches!(setup.durability.as_str(), "sync" | "journal");
    let mean = part(peak, spilled, shards);
    let cycle_seconds = costs.shard.settle(&mean, 0.0).cycle_seconds;
    // A replica's messages are in its home's journal.
    let writes_per_second = groups(mean.messages(), cycle_seconds) * shards as f64;
    let bytes_per_second = peak.sum(|class| class.messages_per_second * record_bytes(class.text_bytes));
    is_kept.then(|| JournalNeed {
        bytes_per_second,
        disk_bytes_per_second: super::calibrate::journal_disk_bytes(peak, writes_per_second),
        writes_per_second,
        syncs_per_second: if setup.durability == "sync" { writes_per_second } else { 0.0 },
        seconds_without_database: JOURNAL_BYTES_MAX / bytes_per_second,
    })
}

/// Where the answer rests on what was not measured, or is not what was asked for.
fn warnings(setup: &Setup, costs: &Fitted, profile: &Profile, peak: &Demand, answer: &Answer) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, asked, measured) in
        [("durability", &profile.durability, &setup.durability), ("database", &profile.database, &setup.database)]
    {
        if let Some(asked) = asked.as_ref().filter(|asked| *asked != measured) {
            warnings.push(format!(
                "the costs were measured with {what} {measured}, the profile has {asked}: measure with that"
            ));
        }
    }
    let range = &costs.range;
    let most = |of: fn(&Class) -> f64| peak.classes.iter().map(of).fold(0.0, f64::max);
    let of_shard = |of: fn(&Shards) -> f64| answer.shards.as_ref().map_or(0.0, of);
    for (what, value, bound) in [
        ("connections of a shard", of_shard(|shards| shards.connections), range.connections_max),
        ("messages a second of a shard", of_shard(|shards| shards.messages_per_second), range.messages_per_second_max),
        ("connected members of a room", most(|class| class.members), range.members_max),
        ("bytes of a text", most(|class| class.text_bytes), range.text_bytes_max),
        ("cores of a shard", of_shard(|shards| shards.utilisation), range.shard_cores_max),
    ] {
        if value > bound * 1.01 {
            let [value, bound] =
                [value, bound].map(|number| if number < 10.0 { format!("{number:.2}") } else { grouped(number) });
            warnings.push(format!("{value} {what} is beyond the {bound} that were measured: an extrapolation"));
        }
    }
    let check = &costs.check;
    if setup.is_quick {
        warnings.push("the costs are from a --quick measurement: they are rough".into());
    }
    if check.cpu.runs == 0 || check.cpu.median > ERROR_TOLD {
        let median = check.cpu.median * 100.0;
        warnings
            .push(format!("the costs were off by {median:.0} % at the median of the loads that they were checked on"));
    }
    if answer.writer_cores > THREAD_BUSY_MAX {
        let cores = answer.writer_cores;
        warnings.push(format!(
            "the one writer thread would be busy {cores:.2} of the time: messages are saved later and later"
        ));
    }
    if of_shard(|shards| shards.count as f64) > 1.0 {
        warnings.push(
            "one shard was measured; several are taken to disturb each other as little as their number says".into(),
        );
    }
    if answer.reconnect_seconds_least > profile.reconnect_seconds {
        let (least, asked) = (answer.reconnect_seconds_least, profile.reconnect_seconds);
        warnings.push(format!("everyone back within {asked:.0} s cannot be had: {least:.1} s of CPU stand against it"));
    }
    if answer.target_utilisation > answer.knee_utilisation.unwrap_or(1.0) {
        warnings.push("the target is beyond the knee: latency climbs steeply there".into());
    }
    if answer.shards.is_none() {
        warnings.push(format!("{SHARDS_MAX} shards are the most there are, and are not enough for the utilisation and the p99 that are asked for"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::calibrate::{Check, Errors};
    use crate::capacity::costs::{Admission, Curve, Memory, Point, Range, Storage, Stored};
    use crate::capacity::model::{Saving, Shard};

    /// Costs of round numbers: a send takes 4 us, and nothing else on a shard takes anything but a turn.
    fn costs() -> Fitted {
        let shard = Shard { send_ns: 4000.0, turn_ns: 50_000.0, sync_seconds: 200e-6, ..Shard::default() };
        let point = |utilisation: f64, p99_us: f64| Point {
            utilisation,
            messages_per_second_asked: 0.0,
            messages_per_second: 0.0,
            cycle_seconds: 0.001,
            p50_us: p99_us / 2.0,
            p99_us,
        };
        let points = vec![point(0.1, 1000.0), point(0.5, 2000.0), point(0.9, 50_000.0)];
        let far = 1e9;
        Fitted {
            shard,
            writer: Saving::new(&[5000.0, 0.0, 100_000.0, 0.0], 0.01),
            database: None,
            admission: Admission { shard_ns: 40_000.0, control_ns: 10_000.0 },
            memory: Memory {
                fixed_bytes: 1e7,
                connection_bytes: 1000.0,
                room_bytes: 2000.0,
                working_bytes: 1e6,
                kernel_connection_bytes: 3000.0,
            },
            storage: Storage {
                measured: vec![Stored { text_bytes: 100.0, message_bytes: 300.0 }],
                log_bytes_per_message: None,
            },
            curve: Curve { rooms: 1, members: 1, text_bytes: 64, points, knee: Some(1), tail_knee: None },
            check: Check { cpu: Errors { runs: 9, median: 0.05, ..Errors::default() }, ..Check::default() },
            range: Range {
                connections_max: far,
                rooms_max: far,
                members_max: far,
                messages_per_second_max: far,
                text_bytes_max: far,
                shard_cores_max: far,
            },
        }
    }

    fn setup() -> Setup {
        Setup {
            build: None,
            ringroom: String::new(),
            kernel: String::new(),
            cpu: String::new(),
            server_cpu: 0,
            client_cpu: 1,
            durability: "sync".into(),
            database: "sqlite".into(),
            seconds: 1.0,
            rounds: 1,
            is_quick: false,
        }
    }

    fn answer(profile: &str) -> Answer {
        plan(&setup(), &costs(), &Profile::parse(profile).unwrap())
    }

    fn rooms(count: f64, members: f64, rate: f64) -> String {
        format!("[[rooms]]\ncount = {count}\nmembers = {members}\nmessages_per_second = {rate}\ntext_bytes = 100\n")
    }

    #[test]
    fn a_small_load_needs_one_cpu() {
        let answer = answer(&rooms(10.0, 10.0, 1.0));
        let shards = answer.shards.as_ref().unwrap();
        // 100 sends of 4 us, and some ten turns of 50 us.
        assert!((shards.utilisation - 0.0009).abs() < 1e-5, "{shards:?}");
        assert_eq!((shards.count, answer.cpus, answer.hot_rooms.len()), (1, Some(1), 0));
        assert!((shards.messages_per_send - 1.0).abs() < 0.01 && shards.above_mean == 0.0, "{shards:?}");
        assert_eq!(answer.warnings, [""; 0]);
    }

    #[test]
    fn memory_disk_and_database_are_sums_of_unit_costs() {
        let answer = answer(&format!("{}peak = 2\n", rooms(100.0, 10.0, 1.0)));
        let memory = &answer.memory;
        assert_eq!((memory.connections_bytes, memory.rooms_bytes, memory.kernel_bytes), (1e6, 2e5, 3e6));
        assert_eq!(memory.resident_bytes, 1e7 + 1e6 + 2e5 + 1e6);
        assert_eq!(answer.database.rows_per_second, 200.0);
        // The day's average, 100 messages a second.
        assert!((answer.database.bytes_per_day - 100.0 * 300.0 * 86_400.0).abs() < 1.0);
        let journal = answer.journal.unwrap();
        assert_eq!(journal.bytes_per_second, 200.0 * record_bytes(100.0));
        assert!(journal.syncs_per_second > 190.0 && journal.syncs_per_second <= 200.0, "{journal:?}");
        assert!((answer.reconnect_seconds_least - 0.04).abs() < 1e-9);
        assert_eq!(answer.deliveries_per_second, 2000.0);
    }

    #[test]
    fn a_load_beyond_a_core_is_divided_until_the_busiest_is_below_the_target() {
        let answer = answer(&rooms(10_000.0, 50.0, 2.0));
        let shards = answer.shards.unwrap();
        assert!(shards.count > 4 && shards.utilisation <= answer.target_utilisation, "{shards:?}");
        assert!(shards.above_mean > 0.0 && shards.above_mean < 0.2, "{shards:?}");
        assert!(shards.p99_us.unwrap() > shards.p50_us.unwrap());
        assert!(answer.cpus.unwrap() > shards.count);
        assert!(answer.warnings.iter().any(|warning| warning.contains("one shard was measured")));
    }

    #[test]
    fn more_shards_are_taken_for_a_lower_p99() {
        let load = rooms(1000.0, 50.0, 1.0);
        let (any, soon) = (answer(&load), answer(&format!("p99_ms = 1.2\n{load}")));
        let (any, soon) = (any.shards.unwrap(), soon.shards.unwrap());
        assert!(soon.count > any.count && soon.p99_us.unwrap() <= 1200.0, "{any:?} {soon:?}");
        // No number of shards makes the disk faster.
        let never = answer(&format!("p99_ms = 0.1\n{load}"));
        assert!(never.shards.is_none() && never.cpus.is_none());
        assert!(never.warnings.iter().any(|warning| warning.contains("not enough")), "{:?}", never.warnings);
    }

    #[test]
    fn a_room_beyond_a_core_is_named_and_spills() {
        let mut costs = costs();
        // Without the sends that a busy room saves, or no room would ever be too much.
        costs.shard.sent_byte_ns = 1.0;
        let profile = format!(
            "{}[[rooms]]\nname = \"all\"\ncount = 1\nmembers = 20000\nmessages_per_second = 200\ntext_bytes = 100\n",
            rooms(10.0, 10.0, 1.0)
        );
        let answer = plan(&setup(), &costs, &Profile::parse(&profile).unwrap());
        let [hot] = &answer.hot_rooms[..] else { panic!("{:?}", answer.hot_rooms) };
        assert!(
            hot.name == "all" && hot.utilisation > answer.target_utilisation && hot.spill_members <= 512.0,
            "{hot:?}"
        );
        let shards = answer.shards.unwrap();
        assert!(answer.journal.unwrap().writes_per_second <= 210.0, "replicas write none: {:?}", answer.journal);
        assert!(shards.count > 2 && shards.above_mean < 0.1, "spread over all, it makes none the busiest: {shards:?}");
    }

    #[test]
    fn what_was_not_measured_is_told() {
        let mut costs = costs();
        costs.range.members_max = 5.0;
        costs.check.cpu.median = 0.3;
        let profile = format!(
            "durability = \"commit\"\nreconnect_seconds = 0.1\ntarget_utilisation = 0.9\n{}",
            rooms(1000.0, 10.0, 1.0)
        );
        let warnings = plan(&setup(), &costs, &Profile::parse(&profile).unwrap()).warnings.join("\n");
        for words in [
            "10 connected members",
            "off by 30 %",
            "durability sync, the profile has commit",
            "cannot be had",
            "beyond the knee",
        ] {
            assert!(warnings.contains(words), "{words}: {warnings}");
        }
    }

    #[test]
    fn without_a_journal_there_is_none_to_plan() {
        let setup = Setup { durability: "none".into(), ..setup() };
        let profile = Profile::parse(&rooms(1.0, 2.0, 1.0)).unwrap();
        assert!(plan(&setup, &costs(), &profile).journal.is_none());
    }

    #[test]
    fn every_member_has_its_share_of_a_spilled_room() {
        let peak = Demand::of(3.0, 900.0, 10.0, 64.0);
        let part = part(&peak, &[true], 3);
        assert!((part.connections() - 900.0).abs() < 1e-9, "{part:?}");
        assert!((part.messages() - 10.0).abs() < 1e-9 && (part.deliveries() - 9000.0).abs() < 1e-6, "{part:?}");
        assert_eq!(above_mean(&peak, &[true], 3), 0.0);
        assert!(above_mean(&peak, &[false], 3) > 0.5);
    }
}

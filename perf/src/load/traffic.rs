//! The messages of a load: what each sender has under way, what each member received, and how late. Text frames flow in
//! from the [`Fleet`](crate::fleet::Fleet), the messages that an echo lets go flow out. It knows no socket.

use super::audit::Audit;
use super::lateness::Lateness;
use super::plan::{Pace, Plan};
use super::sizes::{Sizes, TextBytes};
use crate::field::{Anchor, Field};
use crate::fixtures::Seat;
use crate::fleet::{Clock, Crowd};
use crate::message::{self, Author, Template};
use crate::process;
use crate::sequence::{self, MessageId, Sequence};

/// One member, as the load sees it.
pub(super) struct Member {
    pub(super) sequence: Sequence,
    /// Its place among the senders, if it sends.
    sender: Option<u32>,
    part: Part,
}

/// What a member is to the [`Audit`].
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// There from the first message to the last.
    Plain,
    /// So, and what others of its room are held against.
    Witness,
    /// Others come in its seat.
    Passing,
    /// It reads slowly.
    Slow,
}

/// What was sent to a room.
#[derive(Clone, Copy)]
struct Room {
    sent: u64,
    refused: u64,
    /// Its members that are there from the first message to the last.
    steady: u64,
}

pub(super) struct Sender {
    pub(super) member: usize,
    room: usize,
    author: Author,
    sizes: Sizes,
    /// The number of its next message.
    next: u32,
    /// The number that its next echo bears, when none is missing.
    awaited: u32,
    /// Messages that may leave at the next answer.
    pub(super) credit: u32,
    /// Messages and bytes of text sent.
    sent: u64,
    sent_bytes: u64,
}

/// The messages of a run: what was sent, and what came of it.
pub(super) struct Traffic {
    pub(super) clock: Clock,
    pub(super) members: Vec<Member>,
    pub(super) senders: Vec<Sender>,
    members_per_room: usize,
    rooms: Vec<Room>,
    id: Field,
    mark: Field,
    template: Template,
    text_bytes: TextBytes,
    closed_loop: bool,
    /// Whether senders send: not before everyone sits, not after the measured time.
    pub(super) running: bool,
    pub(super) deliveries: u64,
    /// Deliveries to members that come, go or read slowly, and those that are due to all others.
    loose_deliveries: u64,
    steady_due: u64,
    /// Present when there are such members.
    audit: Option<Audit>,
    /// Members greeted, and when, that come in another's seat.
    came: Vec<(usize, u64)>,
    pub(super) echoes: u64,
    /// Messages passed over when a later one of the same sender came back.
    skipped: u64,
    refusals: u64,
    /// What the server answered to the first message that it refused.
    refusal: String,
    pub(super) lateness: Lateness,
    /// CPU that this thread had used when it last looked for news, and what it spent looking in vain.
    looked_ns: u64,
    spun_ns: u64,
}

impl Crowd for Traffic {
    fn greeted(&mut self, member: usize, now_ns: u64) {
        let Member { sequence, part, .. } = &mut self.members[member];
        if let (Part::Passing | Part::Slow, Some(audit)) = (*part, &mut self.audit) {
            *sequence = Sequence::new();
            audit.greeted(member, self.rooms[member / self.members_per_room].sent);
            self.came.extend((*part == Part::Passing).then_some((member, now_ns)));
        }
    }

    #[inline]
    fn text(&mut self, member: usize, payload: &[u8], now_ns: u64) {
        let Some(id) = self.id.value::<{ size_of::<MessageId>() }>(payload) else {
            return self.refused(member, payload);
        };
        let Member { sequence, sender, part } = &mut self.members[member];
        sequence.push(id);
        self.deliveries += 1;
        let (sender, part) = (*sender, *part);
        if part != Part::Plain {
            self.audit(member, part, id);
        }
        if let Some(sender) = sender {
            self.echo(sender, payload, now_ns);
        }
        if self.lateness.samples() {
            self.sample(part, payload, now_ns);
        }
    }

    #[inline]
    fn answer(&mut self, member: usize, out: &mut Vec<u8>) {
        let Some(sender) = self.members[member].sender else { return };
        let sender = &mut self.senders[sender as usize];
        if sender.credit > 0 && self.running {
            let now_ns = self.clock.now_ns();
            while sender.credit > 0 {
                sender.credit -= 1;
                let room = &mut self.rooms[sender.room];
                room.sent += 1;
                self.steady_due += room.steady;
                sender.write(&self.template, &self.text_bytes, now_ns, out);
            }
        }
    }
}

impl Sender {
    /// Writes the next message, which was due at `due_ns`.
    fn write(&mut self, template: &Template, law: &TextBytes, due_ns: u64, out: &mut Vec<u8>) {
        let text_bytes = self.sizes.draw(law);
        template.write(&self.author, self.next, due_ns, text_bytes, out);
        self.sent_bytes += text_bytes as u64;
        self.next = self.next.wrapping_add(1);
        self.sent += 1;
    }
}

impl Traffic {
    pub(super) fn new(plan: &Plan, clock: Clock, tag: u32) -> Result<Self, String> {
        let template = Template::new(tag);
        let mut senders = Vec::with_capacity(plan.rooms * plan.senders);
        let members = (0..plan.rooms * plan.members)
            .map(|index| {
                let sends = index % plan.members < plan.senders;
                let sender = sends.then_some(senders.len() as u32);
                senders.extend(sender.map(|number| Sender::new(index, template.author(number), number, plan)));
                Member { sequence: Sequence::new(), sender, part: Part::Plain }
            })
            .collect();
        let (passing, slow) = (plan.passing_members(), plan.slow_members());
        let audited = !passing.is_empty() || !slow.is_empty();
        let mut rooms = vec![Room { sent: 0, refused: 0, steady: plan.members as u64 }; plan.rooms];
        let mut members: Vec<Member> = members;
        for (index, part) in
            passing.into_iter().map(|member| (member, Part::Passing)).chain(slow.into_iter().map(|m| (m, Part::Slow)))
        {
            members[index].part = part;
            rooms[index / plan.members].steady -= 1;
        }
        if audited {
            members.iter_mut().step_by(plan.members).for_each(|first| first.part = Part::Witness);
        }
        Ok(Self {
            clock,
            members,
            senders,
            members_per_room: plan.members,
            rooms,
            id: Field::new("\"message_id\"", Anchor::End),
            mark: Field::new("\"message\"", Anchor::Start),
            template,
            text_bytes: plan.text_bytes.clone(),
            closed_loop: matches!(plan.pace, Pace::Closed { .. }),
            running: false,
            deliveries: 0,
            loose_deliveries: 0,
            steady_due: 0,
            audit: audited.then(|| Audit::new(plan.rooms, plan.members)),
            came: Vec::new(),
            echoes: 0,
            skipped: 0,
            refusals: 0,
            refusal: String::new(),
            lateness: Lateness::new()?,
            looked_ns: process::own_cpu_ns(),
            spun_ns: 0,
        })
    }

    /// A client that never sleeps has had its turn; `in_vain`, if there was nothing to send and nothing to read.
    pub(super) fn looked(&mut self, in_vain: bool) {
        let now_ns = process::own_cpu_ns();
        if in_vain {
            self.spun_ns += now_ns - self.looked_ns;
        }
        self.looked_ns = now_ns;
    }

    /// CPU of this thread, without what it spent on waiting.
    pub(super) fn worked_ns(&self) -> u64 {
        process::own_cpu_ns().saturating_sub(self.spun_ns)
    }

    /// Writes the next message of `sender`, which was due at `due_ns`.
    pub(super) fn write(&mut self, sender: usize, due_ns: u64, out: &mut Vec<u8>) {
        let sender = &mut self.senders[sender];
        let room = &mut self.rooms[sender.room];
        room.sent += 1;
        self.steady_due += room.steady;
        sender.write(&self.template, &self.text_bytes, due_ns, out);
    }

    /// A member that is not plain received a message, which its sequence has taken in.
    fn audit(&mut self, member: usize, part: Part, id: &MessageId) {
        let (Some(audit), sequence) = (&mut self.audit, &self.members[member].sequence) else { return };
        if part == Part::Witness {
            return audit.witnessed(member / self.members_per_room, sequence.hash());
        }
        self.loose_deliveries += 1;
        if sequence.count() == 1 {
            audit.first(member, sequence::fingerprint(id));
        }
    }

    /// Writes all that `sender` may send at once, as sent now.
    pub(super) fn spend(&mut self, sender: usize, out: &mut Vec<u8>) {
        let now_ns = self.clock.now_ns();
        for _ in 0..std::mem::take(&mut self.senders[sender].credit) {
            self.write(sender, now_ns, out);
        }
    }

    /// A sender received a message: its own?
    #[inline]
    fn echo(&mut self, sender: u32, payload: &[u8], now_ns: u64) {
        let sender = &mut self.senders[sender as usize];
        let Some(mark) = self.mark.value(payload).filter(|mark| mark[..8] == sender.author) else { return };
        let number = message::number(mark);
        // One that came before is told by the sequence of ids, if the server gave it out twice.
        if number < sender.awaited || number >= sender.next {
            return;
        }
        self.skipped += u64::from(number - sender.awaited);
        sender.awaited = number + 1;
        sender.credit += u32::from(self.closed_loop);
        self.echoes += 1;
        self.lateness.echoed(message::due_ns(mark), now_ns);
    }

    /// Looks when a delivery was due.
    #[cold]
    fn sample(&mut self, part: Part, payload: &[u8], now_ns: u64) {
        // How late a slow reader has its messages says nothing of the server.
        let mark = if part == Part::Slow { None } else { self.mark.value(payload) };
        let ours = mark.filter(|mark| self.template.sender(mark).is_some());
        self.lateness.delivered(ours.map(message::due_ns), now_ns);
    }

    #[cold]
    fn refused(&mut self, member: usize, payload: &[u8]) {
        self.refusals += 1;
        if self.members[member].sender.is_some() {
            let room = &mut self.rooms[member / self.members_per_room];
            room.refused += 1;
            self.steady_due = self.steady_due.saturating_sub(room.steady);
        }
        if self.refusal.is_empty() {
            self.refusal = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        }
    }

    /// The mean length of the texts sent.
    pub(super) fn text_bytes_mean(&self) -> f64 {
        let (bytes, sent) = self.senders.iter().fold((0, 0), |(b, n), sender| (b + sender.sent_bytes, n + sender.sent));
        bytes as f64 / sent.max(1) as f64
    }

    /// Deliveries to members that are there from the first message to the last. Those to a slow reader go on for long after the
    /// server has ended.
    pub(super) fn steady_deliveries(&self) -> u64 {
        self.deliveries - self.loose_deliveries
    }

    /// Whether anything that was sent has not reached everyone who is there from the first message to the last.
    pub(super) fn owes(&self) -> bool {
        self.steady_deliveries() < self.steady_due
    }

    /// Whether `member`, which came or reads slowly, has all that was sent since it did.
    pub(super) fn has_all(&self, member: usize) -> bool {
        let taken = self.rooms[member / self.members_per_room].taken();
        self.audit.as_ref().is_none_or(|audit| audit.has_all(member, &self.members[member].sequence, taken))
    }

    /// The connection of `member` is over.
    pub(super) fn ended(&mut self, member: usize) {
        let loose = matches!(self.members[member].part, Part::Passing | Part::Slow);
        if let Some(audit) = self.audit.as_mut().filter(|_| loose) {
            audit.ended(member, self.members[member].sequence);
        }
    }

    /// The load is over, and `member`, which came or reads slowly, is still there.
    pub(super) fn stayed(&mut self, member: usize) {
        let taken = self.rooms[member / self.members_per_room].taken();
        if let Some(audit) = &mut self.audit {
            audit.stayed(member, self.members[member].sequence, taken);
        }
    }

    /// Members that came in another's seat since the last call, and when they were greeted.
    pub(super) fn take_came(&mut self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.came)
    }

    /// What is wrong with the deliveries, a line a member that is wrong, at most ten; and stretches found whole.
    pub(super) fn faults(&mut self, seats: &[Seat<'_>]) -> (Vec<String>, u64) {
        let mut faults = Vec::new();
        if self.refusals > 0 {
            faults.push(format!("{} messages were refused; the first answer: {}", self.refusals, self.refusal));
        }
        // A room may have as many messages as it was sent and yet lack one: another came twice, under another id.
        let unanswered: u64 =
            self.senders.iter().map(|sender| u64::from(sender.next.wrapping_sub(sender.awaited))).sum();
        let missing = self.skipped + unanswered;
        if missing > self.refusals {
            faults.push(format!("{} messages never came back to their sender", missing - self.refusals));
        }
        let place = |index: usize| {
            format!("room {} member {} ({})", seats[index].room, index % self.members_per_room, seats[index].username)
        };
        for (index, member) in self.members.iter().enumerate() {
            let (room, first) = (index / self.members_per_room, index - index % self.members_per_room);
            if matches!(member.part, Part::Plain | Part::Witness)
                && let Some(fault) = member.sequence.fault(&self.members[first].sequence, self.rooms[room].taken())
            {
                faults.push(format!("{}: {fault}", place(index)));
            }
        }
        let (whole, stretches, untold) = self.audit.take().map(Audit::close).unwrap_or_default();
        faults.extend(stretches.into_iter().map(|(index, fault)| format!("{}: {fault}", place(index))));
        let more = faults.len().saturating_sub(10) + untold as usize;
        faults.truncate(10);
        faults.extend((more > 0).then(|| format!("and {more} more")));
        (faults, whole)
    }
}

impl Room {
    /// Messages that the server did not refuse.
    fn taken(&self) -> u64 {
        self.sent.saturating_sub(self.refused)
    }
}

impl Sender {
    fn new(member: usize, author: Author, number: u32, plan: &Plan) -> Self {
        let place = number as usize % plan.senders;
        let credit = match plan.pace {
            Pace::Closed { outstanding } => {
                outstanding / plan.senders + usize::from(place < outstanding % plan.senders)
            }
            Pace::Open { .. } | Pace::Steps { .. } => 0,
        };
        Self {
            member,
            room: member / plan.members,
            author,
            sizes: Sizes::new(plan.seed, number),
            next: 0,
            awaited: 0,
            credit: credit as u32,
            sent: 0,
            sent_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages that a room of one is sent, as a server broadcasts them.
    fn broadcast(frames: &[u8], ids: [u8; 3], which: [usize; 3]) -> Vec<String> {
        let frame_bytes = frames.len() / 3;
        let unmasked = |nth: usize| {
            let frame = &frames[nth * frame_bytes..][..frame_bytes];
            let json: Vec<u8> =
                frame[8..].iter().zip(frame[4..8].iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            String::from_utf8(json).unwrap()
        };
        let id = |id: u8| format!("00000000-0000-7000-8000-0000000000{id:02}");
        let json =
            |(id_of, nth): (u8, usize)| unmasked(nth).replace('}', &format!(r#","message_id":"{}"}}"#, id(id_of)));
        ids.into_iter().zip(which).map(json).collect()
    }

    #[test]
    fn a_message_that_is_lost_is_missed_though_another_came_twice() {
        let seats = [Seat { room: "r", username: "ann", token: "t" }];
        for (which, word) in
            [([0, 1, 2], None), ([0, 1, 1], Some("1 messages never")), ([0, 0, 2], Some("1 messages never"))]
        {
            let plan =
                Plan { members: 1, text_bytes: "100".parse().unwrap(), ..Plan::new(Pace::Closed { outstanding: 3 }) };
            let mut traffic = Traffic::new(&plan, Clock::start(), 7).unwrap();
            let mut frames = Vec::new();
            traffic.spend(0, &mut frames);
            for text in broadcast(&frames, [1, 2, 3], which) {
                traffic.text(0, text.as_bytes(), 1000);
            }
            let (faults, _) = traffic.faults(&seats);
            assert_eq!(faults.len(), usize::from(word.is_some()), "{which:?}: {faults:?}");
            assert!(word.is_none_or(|word| faults[0].contains(word)), "{which:?}: {faults:?}");
        }
    }
}

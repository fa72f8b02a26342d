//! The messages of a load: what each sender has under way, what each member received, and how late. Text frames flow in
//! from the [`Fleet`](crate::fleet::Fleet), the messages that an echo lets go flow out. It knows no socket.

use super::lateness::Lateness;
use super::plan::{Pace, Plan};
use super::sizes::{Sizes, TextBytes};
use crate::field::{Anchor, Field};
use crate::fixtures::Seat;
use crate::fleet::{Clock, Crowd};
use crate::message::{self, Author, Template};
use crate::sequence::{MessageId, Sequence};

/// One member, as the load sees it.
pub(super) struct Member {
    pub(super) sequence: Sequence,
    /// Its place among the senders, if it sends.
    sender: Option<u32>,
}

pub(super) struct Sender {
    pub(super) member: usize,
    author: Author,
    sizes: Sizes,
    /// The number of its next message.
    next: u32,
    /// The number that its next echo bears, when none is missing.
    awaited: u32,
    /// Messages that may leave at the next answer.
    pub(super) credit: u32,
    pub(super) sent: u64,
    /// Bytes of the texts sent.
    pub(super) sent_bytes: u64,
    refused: u64,
}

/// The messages of a run: what was sent, and what came of it.
pub(super) struct Traffic {
    pub(super) clock: Clock,
    pub(super) members: Vec<Member>,
    pub(super) senders: Vec<Sender>,
    id: Field,
    mark: Field,
    template: Template,
    text_bytes: TextBytes,
    closed_loop: bool,
    /// Whether senders send: not before everyone sits, not after the measured time.
    pub(super) running: bool,
    pub(super) deliveries: u64,
    pub(super) echoes: u64,
    /// Messages passed over when a later one of the same sender came back.
    skipped: u64,
    refusals: u64,
    /// What the server answered to the first message that it refused.
    refusal: String,
    pub(super) lateness: Lateness,
}

impl Crowd for Traffic {
    #[inline]
    fn text(&mut self, member: usize, payload: &[u8], now_ns: u64) {
        let Some(id) = self.id.value::<{ size_of::<MessageId>() }>(payload) else {
            return self.refused(member, payload);
        };
        let member = &mut self.members[member];
        member.sequence.push(id);
        self.deliveries += 1;
        if let Some(sender) = member.sender {
            self.echo(sender, payload, now_ns);
        }
        if self.lateness.samples() {
            self.sample(payload, now_ns);
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
                Member { sequence: Sequence::new(), sender }
            })
            .collect();
        Ok(Self {
            clock,
            members,
            senders,
            id: Field::new("\"message_id\"", Anchor::End),
            mark: Field::new("\"message\"", Anchor::Start),
            template,
            text_bytes: plan.text_bytes.clone(),
            closed_loop: matches!(plan.pace, Pace::Closed { .. }),
            running: false,
            deliveries: 0,
            echoes: 0,
            skipped: 0,
            refusals: 0,
            refusal: String::new(),
            lateness: Lateness::new()?,
        })
    }

    /// Writes the next message of `sender`, which was due at `due_ns`.
    pub(super) fn write(&mut self, sender: usize, due_ns: u64, out: &mut Vec<u8>) {
        self.senders[sender].write(&self.template, &self.text_bytes, due_ns, out);
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
    fn sample(&mut self, payload: &[u8], now_ns: u64) {
        let ours = self.mark.value(payload).filter(|mark| self.template.sender(mark).is_some());
        self.lateness.delivered(ours.map(message::due_ns), now_ns);
    }

    #[cold]
    fn refused(&mut self, member: usize, payload: &[u8]) {
        self.refusals += 1;
        if let Some(sender) = self.members[member].sender {
            self.senders[sender as usize].refused += 1;
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

    /// Whether anything that was sent has not reached everyone.
    pub(super) fn owes(&self, plan: &Plan) -> bool {
        self.deliveries < taken(&self.senders) * plan.members as u64
    }

    /// What is wrong with the deliveries, a line a member that is wrong, at most ten.
    pub(super) fn faults(&self, plan: &Plan, seats: &[Seat<'_>]) -> Vec<String> {
        let mut faults = Vec::new();
        if self.refusals > 0 {
            faults.push(format!("{} messages were refused; the first answer: {}", self.refusals, self.refusal));
        }
        if self.skipped > self.refusals {
            faults.push(format!("{} messages never came back to their sender", self.skipped - self.refusals));
        }
        for (room, members) in self.members.chunks(plan.members).enumerate() {
            let sent = taken(&self.senders[room * plan.senders..][..plan.senders]);
            for (at, member) in members.iter().enumerate() {
                let index = room * plan.members + at;
                if let Some(fault) = member.sequence.fault(&members[0].sequence, sent) {
                    faults.push(format!("room {} member {at} ({}): {fault}", seats[index].room, seats[index].username));
                }
            }
        }
        let more = faults.len().saturating_sub(10);
        faults.truncate(10);
        faults.extend((more > 0).then(|| format!("and {more} more")));
        faults
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
            author,
            sizes: Sizes::new(plan.seed, number),
            next: 0,
            awaited: 0,
            credit: credit as u32,
            sent: 0,
            sent_bytes: 0,
            refused: 0,
        }
    }
}

/// Messages of `senders` that the server did not refuse.
fn taken(senders: &[Sender]) -> u64 {
    senders.iter().map(|sender| sender.sent.saturating_sub(sender.refused)).sum()
}

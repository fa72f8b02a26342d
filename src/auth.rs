//! Who may enter which room: tokens and memberships, asked of the database in bulk.
//!
//! In: a token and a room, from a shard or the HTTP side. Out: an [`Admission`]. On the control thread; knows no SQL.
//!
//! Ten thousand clients that come back at once make a handful of queries: whoever asks while a query is under way waits
//! for the next one, which asks for all of them (*bulk*); who asks for what somebody else waits for waits with him
//! (*single flight*); and an answer is good for a short while (*cache*), a refusal for a shorter one. Every wait has a
//! deadline.
//!
//! With the database away an older answer will do, if it was a good one: whoever could enter a few minutes ago still can. As long
//! as it is away, which is tried again and again, such an answer is given at once. It never stands against a newer refusal.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    identity::{RoomId, Token, User, UserId},
    metrics::Counters,
    store::{self, StoreError},
};

/// What became of the question whether a token's user may enter a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The token is this active user's, a member of the room.
    Admitted(Arc<User>),
    /// The token is missing, unknown, or its user is not active. Decided before membership.
    Unauthorized,
    /// The room is unknown, or the user is not a member of it.
    NotMember,
    /// The database cannot be asked.
    Unavailable,
}

/// The questions that go to the database, each for any number of keys at once.
pub trait Directory: Send + Sync + 'static {
    /// The active users of these tokens.
    fn users(&self, tokens: &[Token]) -> impl Future<Output = Result<Vec<Option<User>>, StoreError>> + Send;

    /// Which of these users are members of these rooms?
    fn members(&self, pairs: &[(RoomId, UserId)]) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send;
}

impl Directory for store::Reader {
    async fn users(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
        self.users_by_token(tokens).await
    }

    async fn members(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
        self.memberships(pairs).await
    }
}

/// How long and how many.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long an answer is good.
    pub cache: Duration,
    /// For how long after it was given a good answer still counts while the database cannot be asked.
    pub outage: Duration,
    /// Answers kept, of each kind.
    pub cache_entries: usize,
    /// How long anyone waits for an answer.
    pub timeout: Duration,
}

impl Policy {
    /// How long a refusal is good: whoever was just made a member should not have to wait.
    fn refusal_cache(&self) -> Duration {
        self.cache.min(Duration::from_secs(1))
    }

    /// How long an answer can be of use.
    fn keep(&self) -> Duration {
        self.cache.max(self.outage)
    }
}

/// The pause after a query. Who asks alone never meets it; in a storm it gathers what would be many small queries.
const GATHER: Duration = Duration::from_millis(2);

/// The pause after a query that failed. A database that refuses at once shall not be asked all the time, and one that is back
/// shall not wait to be noticed.
const RETRY: Duration = Duration::from_millis(250);

/// The look-ups of one process. Cheap to clone.
pub struct Auth<D>(Arc<Inner<D>>);

impl<D> Clone for Auth<D> {
    fn clone(&self) -> Self {
        Auth(Arc::clone(&self.0))
    }
}

struct Inner<D> {
    directory: D,
    policy: Policy,
    counters: Arc<Counters>,
    users: Lookup<Token, Option<Arc<User>>>,
    members: Lookup<(RoomId, UserId), bool>,
}

/// The database did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

impl<D: Directory> Auth<D> {
    /// Look-ups that ask `directory`.
    pub fn new(directory: D, policy: Policy, counters: Arc<Counters>) -> Auth<D> {
        let (users, members) = (Lookup::new(policy), Lookup::new(policy));
        Auth(Arc::new(Inner { directory, policy, counters, users, members }))
    }

    /// The database behind the look-ups.
    pub fn directory(&self) -> &D {
        &self.0.directory
    }

    /// The answer, if it is known already.
    pub fn known(&self, token: &Token, room: RoomId) -> Option<Admission> {
        let now = Instant::now();
        let Some(user) = self.0.users.known(token, now)? else { return Some(Admission::Unauthorized) };
        let member = self.0.members.known(&(room, user.id), now)?;
        Some(if member { Admission::Admitted(user) } else { Admission::NotMember })
    }

    /// May the holder of this token enter this room? The token is looked at before the membership.
    pub async fn admit(&self, token: Option<Token>, room: RoomId) -> Admission {
        let Some(token) = token else { return Admission::Unauthorized };
        let deadline = self.deadline();
        let admission = async {
            let Some(user) = self.user(token, deadline).await? else { return Ok(Admission::Unauthorized) };
            let member = self.member((room, user.id), deadline).await?;
            Ok::<_, Unavailable>(if member { Admission::Admitted(user) } else { Admission::NotMember })
        };
        admission.await.unwrap_or(Admission::Unavailable)
    }

    /// Is this user a member of this room?
    pub async fn is_member(&self, room: RoomId, user: UserId) -> Result<bool, Unavailable> {
        self.member((room, user), self.deadline()).await
    }

    /// Has the last query failed, of either kind?
    fn is_away(&self) -> bool {
        self.0.users.state().failed.is_some() || self.0.members.state().failed.is_some()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.policy.timeout
    }

    async fn user(&self, token: Token, deadline: Instant) -> Result<Option<Arc<User>>, Unavailable> {
        let (answer, run) = self.0.users.ask(&token, self.is_away());
        if run {
            tokio::spawn(self.clone().ask_for_users());
        }
        self.outcome(&self.0.users, &token, answer, deadline).await
    }

    async fn member(&self, pair: (RoomId, UserId), deadline: Instant) -> Result<bool, Unavailable> {
        let (answer, run) = self.0.members.ask(&pair, self.is_away());
        if run {
            tokio::spawn(self.clone().ask_for_members());
        }
        self.outcome(&self.0.members, &pair, answer, deadline).await
    }

    /// The answer when it comes; if none comes before the deadline, the last good one that there was.
    async fn outcome<K: Key, V: Verdict>(
        &self,
        lookup: &Lookup<K, V>,
        key: &K,
        answer: Answer<V>,
        deadline: Instant,
    ) -> Result<V, Unavailable> {
        if let Answer::Known(value) = answer {
            return Ok(value);
        }
        if let Answer::Coming(coming) = answer
            && let Ok(Ok(value)) = tokio::time::timeout_at(deadline, coming).await
        {
            return Ok(value);
        }
        let last_good = lookup.last_good(key).ok_or(Unavailable)?;
        self.0.counters.answers_stale.up();
        Ok(last_good)
    }

    /// Forgets what was known for longer than it is of use. To be called once in [`Policy::cache`].
    pub fn forget(&self) {
        self.0.users.state().age();
        self.0.members.state().age();
    }

    /// Asks for tokens until nobody waits for one, and, where older answers count, until the database is there.
    async fn ask_for_users(self) {
        // Whoever else is about to ask in this moment shall be in the first query.
        tokio::task::yield_now().await;
        while let Some(tokens) = self.0.users.begin_query() {
            let users = self.query(self.0.directory.users(&tokens)).await;
            let users = users.map(|users| users.into_iter().map(|user| user.map(Arc::new)).collect());
            let is_answered = self.0.users.answer(tokens, users);
            tokio::time::sleep(if is_answered { GATHER } else { RETRY }).await;
        }
    }

    /// Asks for memberships, as [`ask_for_users`](Self::ask_for_users) does for tokens.
    async fn ask_for_members(self) {
        tokio::task::yield_now().await;
        while let Some(pairs) = self.0.members.begin_query() {
            let members = self.query(self.0.directory.members(&pairs)).await;
            let is_answered = self.0.members.answer(pairs, members);
            tokio::time::sleep(if is_answered { GATHER } else { RETRY }).await;
        }
    }

    async fn query<T>(&self, query: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        self.0.counters.queries.up();
        let reason = match tokio::time::timeout(self.0.policy.timeout, query).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.0.counters.queries_failed.up();
        // One line for an outage of many queries: the first, the second, the fourth …
        if self.0.counters.queries_failed.get().is_power_of_two() {
            tracing::warn!(
                reason,
                failed = self.0.counters.queries_failed.get(),
                "the database cannot be asked who somebody is"
            );
        }
        None
    }
}

/// An answer that lets somebody in, or does not.
trait Verdict: Clone {
    fn is_good(&self) -> bool;
}

impl Verdict for Option<Arc<User>> {
    fn is_good(&self) -> bool {
        self.is_some()
    }
}

impl Verdict for bool {
    fn is_good(&self) -> bool {
        *self
    }
}

/// What a question is about.
trait Key: Clone + Eq + Hash {
    fn digest(&self) -> Digest;
}

impl Key for Token {
    fn digest(&self) -> Digest {
        Digest::of(&[self.expose().as_bytes()])
    }
}

impl Key for (RoomId, UserId) {
    fn digest(&self) -> Digest {
        let (room, user) = self;
        match user {
            UserId::Uuid(user) => Digest::of(&[room.as_bytes(), user.as_bytes()]),
            UserId::Int(user) => Digest::of(&[room.as_bytes(), &user.to_le_bytes()]),
        }
    }
}

/// Stands for a key among the answers: the first 128 bits of the SHA-256 of a token's bytes, or of a room's 16 bytes and its
/// user's 16 or 8, so that no two keys of a kind are the same input. It takes a fraction of the key's memory, and a random token
/// cannot be found from it.
///
/// Answers are mixed up if two keys share a digest. Among `n` of them that happens by chance with a probability of about
/// n²/2^129: less than one in 10^26 for a million. Nobody can bring that about to any use, so the hash needs no key. A made-up key
/// is let in if it shares the digest of one of the `n` that were: 2^128/n attempts, for tokens each of them a request, since nobody
/// is told a digest. Two keys of one's own choice that collide take 2^64 only, and let nobody in: the tokens that are good, and the
/// rooms that others are in, are given and not chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Digest([u8; 16]);

impl Digest {
    fn of(parts: &[&[u8]]) -> Digest {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let mut half = [0; 16];
        half.copy_from_slice(&hash.finalize()[..16]);
        Digest(half)
    }
}

/// Milliseconds of a look-up's life. They begin again after 49 days, and no answer is kept for a tenth of that.
#[derive(Clone, Copy)]
struct Moment(u32);

impl Moment {
    fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.wrapping_sub(earlier.0).into())
    }
}

/// An answer, and when it was given.
type Given<V> = (V, Moment);

/// What an answer may take in its table: there are as many as clients that came in the last minutes.
const ANSWER_BYTES_MAX: usize = 32;

const _: () = assert!(size_of::<(Digest, Given<Option<Arc<User>>>)>() <= ANSWER_BYTES_MAX);
const _: () = assert!(size_of::<(Digest, Given<bool>)>() <= ANSWER_BYTES_MAX);

/// One kind of look-up: what is known, who waits for what, and what the next query is to ask.
struct Lookup<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    policy: Policy,
    began: Instant,
    // Apart, so that a flood of made-up tokens cannot push out the answers that an outage calls for.
    good: Generations<V>,
    refused: Generations<V>,
    waiting: HashMap<K, Vec<oneshot::Sender<V>>>,
    asked_for: Vec<K>,
    is_running: bool,
    /// What the last query, which failed, asked for: asked again, if nothing else is, until the database answers.
    failed: Option<K>,
}

/// Answers in two generations, so that forgetting the old ones is one assignment and neither grows past half the bound.
struct Generations<V> {
    young: HashMap<Digest, Given<V>>,
    old: HashMap<Digest, Given<V>>,
    entries_max: usize,
    aged: Instant,
}

/// An answer that is there, will come, or is a good one of earlier while the database is away.
enum Answer<V> {
    Known(V),
    Coming(oneshot::Receiver<V>),
    Away,
}

impl<K: Key, V: Verdict> Lookup<K, V> {
    /// Keys of one query. More than this only makes the query's own memory grow.
    const QUERY_KEYS_MAX: usize = 4096;

    fn new(policy: Policy) -> Lookup<K, V> {
        // Refusals do not live long.
        let refused_max = policy.cache_entries / 4;
        let state = State {
            policy,
            began: Instant::now(),
            good: Generations::new(policy.cache_entries - refused_max),
            refused: Generations::new(refused_max),
            waiting: HashMap::new(),
            asked_for: Vec::new(),
            is_running: false,
            failed: None,
        };
        Lookup { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        // Never held across an await; only the control thread's tasks come here, so nobody ever waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &K, now: Instant) -> Option<V> {
        let key = key.digest();
        let state = self.state();
        state.known(&key, state.moment(now))
    }

    /// The last answer, if it was a good one and not too long ago.
    fn last_good(&self, key: &K) -> Option<V> {
        let key = key.digest();
        self.state().last_good(&key)
    }

    /// The answer, and whether the caller must start the task that asks the database.
    fn ask(&self, key: &K, is_away: bool) -> (Answer<V>, bool) {
        let digest = key.digest();
        let mut state = self.state();
        if let Some(value) = state.known(&digest, state.moment(Instant::now())) {
            return (Answer::Known(value), false);
        }
        if is_away && state.last_good(&digest).is_some() {
            return (Answer::Away, false);
        }
        let (sender, receiver) = oneshot::channel();
        if !state.waiting.contains_key(key) {
            state.asked_for.push(key.clone());
        }
        state.waiting.entry(key.clone()).or_default().push(sender);
        let run = !std::mem::replace(&mut state.is_running, true);
        (Answer::Coming(receiver), run)
    }

    /// The keys that the next query is to ask for; `None` ends the asking task. What only those asked for who have given up
    /// since is dropped: a database that is slow to fail must not make the list grow without end.
    fn begin_query(&self) -> Option<Vec<K>> {
        let mut state = self.state();
        let State { asked_for, waiting, .. } = &mut *state;
        asked_for.retain(|key| {
            let is_wanted = waiting.get(key).is_some_and(|all| all.iter().any(|waiter| !waiter.is_closed()));
            if !is_wanted {
                waiting.remove(key);
            }
            is_wanted
        });
        let count = asked_for.len().min(Self::QUERY_KEYS_MAX);
        // Who asked first is answered first.
        let mut keys: Vec<K> = asked_for.drain(..count).collect();
        if keys.is_empty() {
            keys.extend(state.failed.clone());
        }
        state.is_running = !keys.is_empty();
        state.is_running.then_some(keys)
    }

    /// Tells everyone who waits; without values they learn that the database cannot be asked. Was it asked?
    fn answer(&self, keys: Vec<K>, values: Option<Vec<V>>) -> bool {
        let mut state = self.state();
        let now = state.moment(Instant::now());
        let is_answered = values.is_some();
        let away_matters = !is_answered && !state.policy.outage.is_zero();
        state.failed = keys.first().filter(|_| away_matters).cloned();
        let mut values = values.map(Vec::into_iter);
        for key in keys {
            let waiting = state.waiting.remove(&key).unwrap_or_default();
            let Some(value) = values.as_mut().and_then(Iterator::next) else { continue };
            for waiter in waiting {
                // One that has given up by now misses nothing.
                let _ = waiter.send(value.clone());
            }
            state.keep(key.digest(), value, now);
        }
        is_answered
    }
}

impl<K: Key, V: Verdict> State<K, V> {
    fn moment(&self, now: Instant) -> Moment {
        Moment((now - self.began).as_millis() as u32)
    }

    fn known(&self, key: &Digest, now: Moment) -> Option<V> {
        let fresh = |given: Option<&Given<V>>, good_for| {
            given.filter(|(_, given)| now.since(*given) < good_for).map(|(value, _)| value.clone())
        };
        let refused = || fresh(self.refused.get(key), self.policy.refusal_cache());
        fresh(self.good.get(key), self.policy.cache).or_else(refused)
    }

    fn last_good(&self, key: &Digest) -> Option<V> {
        let (value, given) = self.good.get(key)?;
        let now = self.moment(Instant::now());
        (now.since(*given) < self.policy.outage).then(|| value.clone())
    }

    /// Forgets what is too old, and gives back what a storm of questions needed.
    fn age(&mut self) {
        self.refused.age();
        if self.good.aged.elapsed() >= self.policy.keep() {
            self.good.age();
        }
        self.waiting.shrink_to_fit();
        self.asked_for.shrink_to_fit();
    }

    fn keep(&mut self, key: Digest, value: V, now: Moment) {
        let (kept, other) = match value.is_good() {
            true => (&mut self.good, &mut self.refused),
            false => (&mut self.refused, &mut self.good),
        };
        other.remove(&key);
        kept.insert(key, (value, now));
    }
}

impl<V> Generations<V> {
    fn new(entries_max: usize) -> Generations<V> {
        Generations { young: HashMap::new(), old: HashMap::new(), entries_max, aged: Instant::now() }
    }

    fn get(&self, key: &Digest) -> Option<&Given<V>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn insert(&mut self, key: Digest, answer: Given<V>) {
        if self.young.len() >= self.entries_max / 2 {
            self.age();
        }
        if self.entries_max > 1 {
            self.young.insert(key, answer);
        }
    }

    fn remove(&mut self, key: &Digest) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.aged = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use uuid::Uuid;

    use super::*;

    impl Key for u32 {
        fn digest(&self) -> Digest {
            Digest::of(&[&self.to_le_bytes()])
        }
    }

    /// Everyone is called after his token; tokens that begin with `x` are unknown, and only even rooms have members.
    #[derive(Default)]
    struct Fake {
        queries: AtomicU64,
        keys: AtomicU64,
        away: AtomicBool,
        /// Does not even say that it is away.
        silent: AtomicBool,
        /// Nobody is known any more.
        emptied: AtomicBool,
    }

    impl Fake {
        async fn query<T>(&self, keys: usize, answer: T) -> Result<T, StoreError> {
            self.queries.fetch_add(1, Relaxed);
            self.keys.fetch_add(keys as u64, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.silent.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            match self.away.load(Relaxed) {
                false => Ok(answer),
                true => Err(StoreError::Unavailable("gone".into())),
            }
        }
    }

    impl Directory for Fake {
        async fn users(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
            let user =
                |token: &Token| User { id: UserId::Int(token.expose().len() as i64), username: token.expose().into() };
            let known = |token: &&Token| !token.expose().starts_with('x') && !self.emptied.load(Relaxed);
            self.query(tokens.len(), tokens.iter().map(|token| Some(token).filter(known).map(user)).collect()).await
        }

        async fn members(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
            self.query(pairs.len(), pairs.iter().map(|(room, _)| room.as_u128() % 2 == 0).collect()).await
        }
    }

    fn auth(cache: Duration, cache_entries: usize) -> Auth<Fake> {
        auth_through(Duration::ZERO, cache, cache_entries)
    }

    fn auth_through(outage: Duration, cache: Duration, cache_entries: usize) -> Auth<Fake> {
        let policy = Policy { cache, outage, cache_entries, timeout: Duration::from_secs(5) };
        Auth::new(Fake::default(), policy, Arc::default())
    }

    async fn is_admitted(auth: &Auth<Fake>, token: &str, room: u128) -> bool {
        matches!(admit(auth, token, room).await, Admission::Admitted(_))
    }

    const CACHE: Duration = Duration::from_secs(5);
    const OUTAGE: Duration = Duration::from_secs(60);

    async fn admit(auth: &Auth<Fake>, token: &str, room: u128) -> Admission {
        auth.admit(Token::new(token), Uuid::from_u128(room)).await
    }

    fn queries(auth: &Auth<Fake>) -> u64 {
        auth.directory().queries.load(Relaxed)
    }

    #[tokio::test]
    async fn the_token_is_decided_before_the_membership() {
        let auth = auth(Duration::from_secs(5), 100);
        assert!(matches!(admit(&auth, "alice", 2).await, Admission::Admitted(user) if &*user.username == "alice"));
        assert_eq!(admit(&auth, "alice", 3).await, Admission::NotMember);
        for token in ["x", ""] {
            assert_eq!(admit(&auth, token, 3).await, Admission::Unauthorized, "{token:?}");
        }
    }

    #[tokio::test]
    async fn a_storm_makes_a_handful_of_queries() {
        let auth = auth(Duration::from_secs(5), 100_000);
        let storm = |count: usize| {
            let auth = auth.clone();
            async move {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..count {
                    let auth = auth.clone();
                    // Every token comes twice.
                    tasks.spawn(async move { admit(&auth, &format!("token-{}", client / 2), 2).await });
                }
                let admissions = tasks.join_all().await;
                assert!(admissions.iter().all(|admission| matches!(admission, Admission::Admitted(_))));
            }
        };
        storm(10_000).await;
        assert!(queries(&auth) < 20, "{} queries", queries(&auth));
        assert!(auth.directory().keys.load(Relaxed) <= 10_000, "each token and each pair is asked for once");
        let before = queries(&auth);
        storm(10_000).await;
        assert_eq!(queries(&auth), before, "all of it is known");
        assert!(auth.known(&Token::new("token-0").unwrap(), Uuid::from_u128(2)).is_some());
    }

    #[test]
    fn another_question_has_another_digest() {
        let (room, user) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let keys = [
            (room, UserId::Uuid(user)).digest(),
            (user, UserId::Uuid(room)).digest(),
            (room, UserId::Int(2)).digest(),
            (room, UserId::Int(-2)).digest(),
            Token::new("0123456789").expect("a plain key").digest(),
            Token::new("012345678").expect("a plain key").digest(),
        ];
        let distinct: std::collections::HashSet<Digest> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn a_moment_is_later_than_one_before_the_count_began_again() {
        assert_eq!(Moment(5).since(Moment(u32::MAX - 4)), Duration::from_millis(10));
    }

    #[tokio::test]
    async fn an_outage_is_not_remembered() {
        let auth = auth(Duration::from_secs(5), 100);
        auth.directory().away.store(true, Relaxed);
        assert_eq!(admit(&auth, "alice", 2).await, Admission::Unavailable);
        auth.directory().away.store(false, Relaxed);
        assert!(matches!(admit(&auth, "alice", 2).await, Admission::Admitted(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_was_admitted_still_is_while_the_database_is_away() {
        for (outage, is_let_in) in [(OUTAGE, true), (Duration::ZERO, false)] {
            let auth = auth_through(outage, CACHE, 100);
            assert!(is_admitted(&auth, "alice", 2).await);
            assert_eq!(admit(&auth, "alice", 3).await, Admission::NotMember);
            assert_eq!(admit(&auth, "xavier", 2).await, Admission::Unauthorized);
            auth.directory().away.store(true, Relaxed);
            for _ in 0..5 {
                tokio::time::sleep(2 * CACHE).await;
                auth.forget();
                assert_eq!(is_admitted(&auth, "alice", 2).await, is_let_in);
                for (token, room) in [("alice", 3), ("alice", 4), ("xavier", 2), ("bob", 2)] {
                    assert_eq!(admit(&auth, token, room).await, Admission::Unavailable, "{token} {room}");
                }
            }
            tokio::time::sleep(OUTAGE - 10 * CACHE).await;
            assert_eq!(admit(&auth, "alice", 2).await, Admission::Unavailable, "that is too long ago");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_is_waited_for_once_in_an_outage() {
        let auth = auth_through(OUTAGE, CACHE, 100);
        assert!(is_admitted(&auth, "alice", 2).await && is_admitted(&auth, "bob", 2).await);
        tokio::time::sleep(CACHE).await;
        auth.directory().silent.store(true, Relaxed);
        // The token is waited for in vain, and then there is no time left for the membership.
        for (token, waits) in [("alice", 5), ("alice", 0), ("bob", 0), ("alice", 0)] {
            let began = Instant::now();
            assert!(is_admitted(&auth, token, 2).await);
            assert_eq!(began.elapsed().as_secs(), waits, "{token}");
            tokio::time::sleep(CACHE).await;
        }
        assert_eq!(auth.0.counters.answers_stale.get(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_back_is_noticed_and_asked() {
        let auth = auth_through(OUTAGE, CACHE, 100);
        assert!(is_admitted(&auth, "alice", 2).await);
        auth.directory().away.store(true, Relaxed);
        tokio::time::sleep(2 * CACHE).await;
        assert!(is_admitted(&auth, "alice", 2).await);
        auth.directory().emptied.store(true, Relaxed);
        auth.directory().away.store(false, Relaxed);
        tokio::time::sleep(2 * RETRY).await;
        let before = queries(&auth);
        tokio::time::sleep(2 * CACHE).await;
        assert_eq!(queries(&auth), before, "nobody asks any more");

        assert_eq!(admit(&auth, "alice", 2).await, Admission::Unauthorized);
        auth.directory().away.store(true, Relaxed);
        for _ in 0..3 {
            tokio::time::sleep(2 * CACHE).await;
            assert_eq!(admit(&auth, "alice", 2).await, Admission::Unavailable, "the refusal is newer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_tokens_do_not_push_out_the_good_answers() {
        let auth = auth_through(OUTAGE, CACHE, 100);
        assert!(is_admitted(&auth, "alice", 2).await);
        for client in 0..300 {
            assert_eq!(admit(&auth, &format!("x{client}"), 2).await, Admission::Unauthorized);
        }
        auth.directory().away.store(true, Relaxed);
        tokio::time::sleep(CACHE).await;
        assert!(is_admitted(&auth, "alice", 2).await);
    }

    #[tokio::test]
    async fn what_is_known_stays_within_its_bounds() {
        let auth = auth(Duration::from_millis(20), 10);
        for client in 0..100 {
            admit(&auth, &format!("x{client}"), 2).await;
            admit(&auth, &format!("token-{client}"), 2).await;
        }
        let kept = {
            let state = auth.0.users.state();
            [&state.good, &state.refused].map(|answers| answers.young.len() + answers.old.len()).iter().sum::<usize>()
        };
        assert!(kept <= 10, "{kept} are kept");
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(auth.known(&Token::new("token-99").unwrap(), Uuid::from_u128(2)), None, "it is too old");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked() {
        let auth = auth(Duration::ZERO, 10);
        let lookup = Lookup::<u32, bool>::new(auth.0.policy);
        let askers: Vec<_> = (0..10).map(|key| lookup.ask(&key, false).0).collect();
        let kept: Vec<_> = askers.into_iter().enumerate().filter(|(key, _)| key % 5 == 0).collect();
        assert_eq!(lookup.begin_query(), Some(vec![0, 5]), "the other eight have given up");
        assert_eq!(lookup.state().waiting.len(), 2);
        lookup.answer(vec![0, 5], None);
        assert!(lookup.begin_query().is_none() && lookup.state().waiting.is_empty());
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_past_the_deadline() {
        struct Silent;
        impl Directory for Silent {
            async fn users(&self, _: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
                std::future::pending().await
            }
            async fn members(&self, _: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
                std::future::pending().await
            }
        }
        let policy =
            Policy { cache: Duration::ZERO, outage: OUTAGE, cache_entries: 0, timeout: Duration::from_secs(3) };
        let auth = Auth::new(Silent, policy, Arc::default());
        let began = tokio::time::Instant::now();
        assert_eq!(auth.admit(Token::new("alice"), Uuid::nil()).await, Admission::Unavailable);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}

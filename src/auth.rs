//! Who may enter which room: tokens and memberships, asked of the database in bulk.
//!
//! In: a token and a room, from a shard or the HTTP side. Out: an [`Admission`]. On the control thread; knows no SQL.
//!
//! Ten thousand clients that come back at once make a handful of queries: whoever asks while a query is under way waits
//! for the next one, which asks for all of them (*bulk*); who asks for what somebody else waits for waits with him
//! (*single flight*); and an answer is good for a short while (*cache*), a refusal for a shorter one. Every wait has a
//! deadline.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

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
}

/// The pause after a query. Who asks alone never meets it; in a storm it gathers what would be many small queries.
const GATHER: Duration = Duration::from_millis(2);

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
        let (users, members) = (Lookup::new(policy.cache_entries), Lookup::new(policy.cache_entries));
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
        let answer = async {
            let Some(user) = self.user(token).await? else { return Ok(Admission::Unauthorized) };
            let member = self.ask_member(room, user.id).await?;
            Ok::<_, Unavailable>(if member { Admission::Admitted(user) } else { Admission::NotMember })
        };
        match tokio::time::timeout(self.0.policy.timeout, answer).await {
            Ok(Ok(admission)) => admission,
            Ok(Err(Unavailable)) | Err(_) => Admission::Unavailable,
        }
    }

    /// Is this user a member of this room?
    pub async fn is_member(&self, room: RoomId, user: UserId) -> Result<bool, Unavailable> {
        let answer = tokio::time::timeout(self.0.policy.timeout, self.ask_member(room, user)).await;
        answer.unwrap_or(Err(Unavailable))
    }

    async fn user(&self, token: Token) -> Result<Option<Arc<User>>, Unavailable> {
        let (answer, run) = self.0.users.ask(token);
        if run {
            tokio::spawn(self.clone().ask_for_users());
        }
        answer.get().await
    }

    async fn ask_member(&self, room: RoomId, user: UserId) -> Result<bool, Unavailable> {
        let (answer, run) = self.0.members.ask((room, user));
        if run {
            tokio::spawn(self.clone().ask_for_members());
        }
        answer.get().await
    }

    /// Forgets what was known for longer than it is good for. To be called once in [`Policy::cache`].
    pub fn forget(&self) {
        self.0.users.state().age();
        self.0.members.state().age();
    }

    /// Asks for tokens until nobody waits for one.
    async fn ask_for_users(self) {
        // Whoever else is about to ask in this moment shall be in the first query.
        tokio::task::yield_now().await;
        while let Some(tokens) = self.0.users.begin_query() {
            let users = self.query(self.0.directory.users(&tokens)).await;
            let users = users.map(|users| users.into_iter().map(|user| user.map(Arc::new)).collect());
            self.0.users.answer(tokens, users, |user| self.good_until(user.is_some()));
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Asks for memberships until nobody waits for one.
    async fn ask_for_members(self) {
        tokio::task::yield_now().await;
        while let Some(pairs) = self.0.members.begin_query() {
            let members = self.query(self.0.directory.members(&pairs)).await;
            self.0.members.answer(pairs, members, |member| self.good_until(*member));
            tokio::time::sleep(GATHER).await;
        }
    }

    fn good_until(&self, good: bool) -> Instant {
        Instant::now() + if good { self.0.policy.cache } else { self.0.policy.refusal_cache() }
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

/// One kind of look-up: what is known, who waits for what, and what the next query is to ask.
struct Lookup<K, V> {
    state: Mutex<State<K, V>>,
    entries_max: usize,
}

struct State<K, V> {
    // Two generations, so that forgetting the old ones is one assignment and neither grows past half the bound.
    young: HashMap<K, (V, Instant)>,
    old: HashMap<K, (V, Instant)>,
    waiting: HashMap<K, Vec<oneshot::Sender<V>>>,
    asked_for: Vec<K>,
    is_running: bool,
}

/// An answer that is there or will come.
enum Answer<V> {
    Known(V),
    Coming(oneshot::Receiver<V>),
}

impl<V> Answer<V> {
    async fn get(self) -> Result<V, Unavailable> {
        match self {
            Answer::Known(value) => Ok(value),
            Answer::Coming(receiver) => receiver.await.map_err(|_| Unavailable),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Lookup<K, V> {
    /// Keys of one query. More than this only makes the query's own memory grow.
    const QUERY_KEYS_MAX: usize = 4096;

    fn new(entries_max: usize) -> Lookup<K, V> {
        let state = State {
            young: HashMap::new(),
            old: HashMap::new(),
            waiting: HashMap::new(),
            asked_for: Vec::new(),
            is_running: false,
        };
        Lookup { state: Mutex::new(state), entries_max }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        // Never held across an await; only the control thread's tasks come here, so nobody ever waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &K, now: Instant) -> Option<V> {
        self.state().known(key, now)
    }

    /// The answer, and whether the caller must start the task that asks the database.
    fn ask(&self, key: K) -> (Answer<V>, bool) {
        let mut state = self.state();
        if let Some(value) = state.known(&key, Instant::now()) {
            return (Answer::Known(value), false);
        }
        let (sender, receiver) = oneshot::channel();
        if !state.waiting.contains_key(&key) {
            state.asked_for.push(key.clone());
        }
        state.waiting.entry(key).or_default().push(sender);
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
        let keys: Vec<K> = asked_for.drain(..count).collect();
        state.is_running = !keys.is_empty();
        state.is_running.then_some(keys)
    }

    /// Tells everyone who waits; without values they learn that the database cannot be asked.
    fn answer(&self, keys: Vec<K>, values: Option<Vec<V>>, good_until: impl Fn(&V) -> Instant) {
        let mut state = self.state();
        let mut values = values.map(Vec::into_iter);
        for key in keys {
            let waiting = state.waiting.remove(&key).unwrap_or_default();
            let Some(value) = values.as_mut().and_then(Iterator::next) else { continue };
            for waiter in waiting {
                // One that has given up by now misses nothing.
                let _ = waiter.send(value.clone());
            }
            let until = good_until(&value);
            state.keep(key, value, until, self.entries_max);
        }
    }
}

impl<K: Eq + Hash, V: Clone> State<K, V> {
    fn known(&self, key: &K, now: Instant) -> Option<V> {
        let (value, until) = self.young.get(key).or_else(|| self.old.get(key))?;
        (now < *until).then(|| value.clone())
    }

    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn keep(&mut self, key: K, value: V, until: Instant, entries_max: usize) {
        if self.young.len() >= entries_max / 2 {
            self.age();
        }
        if entries_max > 1 {
            self.young.insert(key, (value, until));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use uuid::Uuid;

    use super::*;

    /// Everyone is called after his token; tokens that begin with `x` are unknown, and only even rooms have members.
    #[derive(Default)]
    struct Fake {
        queries: AtomicU64,
        keys: AtomicU64,
        away: AtomicBool,
    }

    impl Fake {
        async fn query<T>(&self, keys: usize, answer: T) -> Result<T, StoreError> {
            self.queries.fetch_add(1, Relaxed);
            self.keys.fetch_add(keys as u64, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
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
            let known = |token: &&Token| !token.expose().starts_with('x');
            self.query(tokens.len(), tokens.iter().map(|token| Some(token).filter(known).map(user)).collect()).await
        }

        async fn members(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
            self.query(pairs.len(), pairs.iter().map(|(room, _)| room.as_u128() % 2 == 0).collect()).await
        }
    }

    fn auth(cache: Duration, cache_entries: usize) -> Auth<Fake> {
        let policy = Policy { cache, cache_entries, timeout: Duration::from_secs(5) };
        Auth::new(Fake::default(), policy, Arc::default())
    }

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

    #[tokio::test]
    async fn an_outage_is_not_remembered() {
        let auth = auth(Duration::from_secs(5), 100);
        auth.directory().away.store(true, Relaxed);
        assert_eq!(admit(&auth, "alice", 2).await, Admission::Unavailable);
        auth.directory().away.store(false, Relaxed);
        assert!(matches!(admit(&auth, "alice", 2).await, Admission::Admitted(_)));
    }

    #[tokio::test]
    async fn what_is_known_stays_within_its_bounds() {
        let auth = auth(Duration::from_millis(20), 10);
        for client in 0..100 {
            admit(&auth, &format!("token-{client}"), 2).await;
        }
        let kept = {
            let state = auth.0.users.state();
            state.young.len() + state.old.len()
        };
        assert!(kept <= 10, "{kept} are kept");
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(auth.known(&Token::new("token-99").unwrap(), Uuid::from_u128(2)), None, "it is too old");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked() {
        let lookup = Lookup::<u32, bool>::new(10);
        let askers: Vec<_> = (0..10).map(|key| lookup.ask(key).0).collect();
        let kept: Vec<_> = askers.into_iter().enumerate().filter(|(key, _)| key % 5 == 0).collect();
        assert_eq!(lookup.begin_query(), Some(vec![0, 5]), "the other eight have given up");
        assert_eq!(lookup.state().waiting.len(), 2);
        lookup.answer(vec![0, 5], None, |_| Instant::now());
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
        let policy = Policy { cache: Duration::ZERO, cache_entries: 0, timeout: Duration::from_secs(3) };
        let auth = Auth::new(Silent, policy, Arc::default());
        let began = tokio::time::Instant::now();
        assert_eq!(auth.admit(Token::new("alice"), Uuid::nil()).await, Admission::Unavailable);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}

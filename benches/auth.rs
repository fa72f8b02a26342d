//! Whether a token's user may enter a room, answered from the cache: what each connection costs the control thread while
//! everybody comes back.
//!
//! Beside it, a map by token and room as they are. It is one look instead of two, and takes no digest; but its answers have no
//! age, and every token stays in memory.

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringroom::{
    auth::{Admission, Auth, Directory, Policy},
    identity::{RoomId, Token, User, UserId},
    store::StoreError,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// People whose answers are in the cache; more than fit into the CPU's.
const USERS: u64 = 20_000;

/// People of a room.
const USERS_PER_ROOM: u64 = 20;

/// A database in which everybody is known, and a member of every room.
struct Everyone;

impl Directory for Everyone {
    async fn users(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
        let user = |token: &Token| User { id: UserId::Int(0), username: token.expose().into() };
        Ok(tokens.iter().map(user).map(Some).collect())
    }

    async fn members(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
        Ok(vec![true; pairs.len()])
    }
}

/// What each of them comes with.
fn seats(prefix: &str) -> Vec<(Token, RoomId)> {
    let room = |user: u64| Uuid::from_u128(u128::from(user / USERS_PER_ROOM));
    let token = |user: u64| Token::new(&format!("{prefix}{user}")).expect("it is visible ASCII");
    (0..USERS).map(|user| (token(user), room(user))).collect()
}

/// Look-ups that have answered all of these once.
fn asked(seats: &[(Token, RoomId)]) -> Auth<Everyone> {
    let hour = Duration::from_secs(3600);
    let policy = Policy { cache: hour, outage: hour, cache_entries: 1 << 20, timeout: hour };
    let auth = Auth::new(Everyone, policy, Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let mut coming = JoinSet::new();
        for (token, room) in seats.iter().cloned() {
            let auth = auth.clone();
            coming.spawn(async move { auth.admit(Some(token), room).await });
        }
        coming.join_all().await
    });
    auth
}

fn known(criterion: &mut Criterion) {
    let (members, strangers) = (seats("known-"), seats("other-"));
    let auth = asked(&members);
    let mut group = criterion.benchmark_group("auth/known");
    group.throughput(Throughput::Elements(1));
    for (name, seats, is_known) in [("admitted", &members, true), ("never asked", &strangers, false)] {
        let answer = auth.known(&seats[0].0, seats[0].1);
        assert_eq!(matches!(answer, Some(Admission::Admitted(_))), is_known, "{name}: {answer:?}");
        let mut next = seats.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| next.next().map(|(token, room)| auth.known(black_box(token), *room)));
        });
    }
    let user = Arc::new(User { id: UserId::Int(0), username: "ann".into() });
    let map: HashMap<(Token, RoomId), Arc<User>> =
        members.iter().cloned().map(|seat| (seat, Arc::clone(&user))).collect();
    let mut next = members.iter().cycle();
    group.bench_function("admitted/a map of tokens", |bencher| {
        bencher.iter(|| next.next().map(|seat| map.get(black_box(seat)).cloned()));
    });
    group.finish();
}

criterion_group!(benches, known);
criterion_main!(benches);

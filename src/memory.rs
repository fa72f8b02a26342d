//! The allocator's one wish: that somebody says when a busy time is over.
//!
//! mimalloc keeps what a thread has freed for its next need. After a storm of connections that is more than all the idle
//! connections use. So a shard calls [`give_back`] once each time it has become quiet, and the control thread, which no message
//! waits for, whenever it forgets old answers.
#![allow(unsafe_code)]

/// Returns the memory that the calling thread has freed to the kernel. Takes up to milliseconds, for which whatever comes in
/// meanwhile waits: not for a thread that is busy with messages.
pub fn give_back() {
    // SAFETY: `mi_collect` may be called at any time and from any thread; it touches nothing that is allocated.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

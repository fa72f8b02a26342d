//! Message ids and timestamps.

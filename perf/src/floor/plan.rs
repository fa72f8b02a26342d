//! What is asked of `floor`: its arguments, and the plan that they make once they are checked.

use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use clap::{Args, value_parser};
use ringroom::identity::UserId;
use ringroom::journal::record;
use ringroom::protocol::{Envelope, output};
use uuid::Uuid;

use crate::cli::{rate, seconds};
use crate::out::Out;
use crate::server::on_cpu;

/// Characters of the message whose frame is sent when no other size is asked for.
const TEXT_CHARS: usize = 64;

/// The sender's name in that frame.
const NAME: &str = "alice";

/// The most bytes of one send, and of one write.
const BYTES_MAX: u32 = 16 << 20;

#[derive(Args)]
pub(crate) struct FloorArgs {
    /// Sockets that each batch is sent to.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=1_000_000))]
    members: u32,
    /// Bytes of a message; without it the frame in which ringroom sends one of 64 characters.
    #[arg(long, value_parser = value_parser!(u32).range(1..=i64::from(BYTES_MAX)))]
    bytes: Option<u32>,
    /// Messages gathered into one send.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=100_000))]
    messages: u32,
    /// Batches a second, by the clock; without it as fast as the sockets are read.
    #[arg(long, value_name = "BATCHES", value_parser = rate)]
    rate: Option<f64>,
    /// How long each way is measured in each round.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// How often everything is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// The CPU of the thread that sends.
    #[arg(long)]
    cpu: Option<usize>,
    /// The CPU of the thread that reads.
    #[arg(long)]
    client_cpu: Option<usize>,
    /// Measure `fdatasync` too, with files in this directory.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Bytes of one write before a sync; without it what ringroom journals of the messages of one send.
    #[arg(long, value_parser = value_parser!(u32).range(1..=i64::from(BYTES_MAX)))]
    write_bytes: Option<u32>,
    #[command(flatten)]
    pub(crate) out: Out,
}

/// What is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) members: usize,
    /// What one send puts on the wire.
    pub(crate) payload: Vec<u8>,
    pub(crate) messages: usize,
    /// Batches a second, if not as fast as it goes.
    pub(crate) rate: Option<f64>,
    /// Of each way in each round.
    pub(crate) time: Duration,
    pub(crate) rounds: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) client_cpu: Option<usize>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) write_bytes: usize,
}

impl FloorArgs {
    /// The plan that they make.
    ///
    /// # Errors
    /// They cannot be meant.
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        if self.seconds.is_zero() {
            return Err("--seconds must be more than 0".into());
        }
        for cpu in [self.cpu, self.client_cpu] {
            on_cpu(cpu, || ())?;
        }
        if let Some(directory) = self.directory.as_ref().filter(|directory| !directory.is_dir()) {
            return Err(format!("--directory {}: there is no such directory", directory.display()));
        }
        let messages = self.messages as usize;
        let payload = self.bytes.map_or_else(frame, |bytes| vec![b'x'; bytes as usize]).repeat(messages);
        if payload.len() > BYTES_MAX as usize {
            return Err(format!("{} bytes are too many for one send; at most {BYTES_MAX}", payload.len()));
        }
        let record_bytes = record::encoded_len(NAME.len(), TEXT_CHARS);
        Ok(Plan {
            members: self.members as usize,
            payload,
            messages,
            rate: self.rate,
            time: self.seconds,
            rounds: self.rounds as usize,
            cpu: self.cpu,
            client_cpu: self.client_cpu,
            directory: self.directory.clone(),
            write_bytes: self.write_bytes.map_or(record_bytes * messages, |bytes| bytes as usize),
        })
    }
}

/// The frame of a message, as ringroom sends it.
fn frame() -> Vec<u8> {
    let text = "x".repeat(TEXT_CHARS);
    let id = Uuid::now_v7();
    let sender = UserId::Uuid(Uuid::new_v4());
    let timestamp = 1_704_110_400_123_456;
    let envelope = Envelope { message: &text, sender, sender_username: NAME, id, timestamp, receiver: None };
    let mut out = BytesMut::new();
    output::chat_message(&mut out, &envelope);
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FloorArgs,
    }

    fn plan(args: &str) -> Result<Plan, String> {
        let words = std::iter::once("floor").chain(args.split_whitespace());
        Line::try_parse_from(words).map_err(|error| error.to_string())?.args.plan()
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (args, word) in [
            ("--members 0", "0"),
            ("--bytes 0", "0"),
            ("--messages 0", "0"),
            ("--bytes 16777216 --messages 2", "too many"),
            ("--rate 0", "within 0.001"),
            ("--rate nan", "within 0.001"),
            ("--rate 1e-300", "within 0.001"),
            ("--seconds 0", "--seconds"),
            ("--rounds 0", "0"),
            ("--cpu 99999", "CPU 99999 cannot be used"),
            ("--client-cpu 99999", "CPU 99999 cannot be used"),
            ("--directory /nowhere", "/nowhere"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.contains(word), "{args}: {error}");
        }
    }

    #[test]
    fn without_a_size_the_bytes_are_ringrooms_own() {
        let one = plan("").unwrap();
        let json = str::from_utf8(&one.payload[4..]).unwrap();
        assert!(json.starts_with(r#"{"type":"chat_message","message":"xxx"#) && json.ends_with('}'), "{json}");
        let four = plan("--messages 4 --rate 2.5").unwrap();
        assert_eq!((four.payload.len(), four.write_bytes), (4 * one.payload.len(), 4 * one.write_bytes));
        assert_eq!(four.rate, Some(2.5));
        let given = plan("--bytes 10 --messages 3 --write-bytes 7").unwrap();
        assert_eq!((given.payload.len(), given.write_bytes), (30, 7));
    }
}

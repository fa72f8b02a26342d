//! What goes to Postgres in binary form and needs more than a plain Rust type: user ids of either type, points in time,
//! the rows of a COPY.

use std::error::Error;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::{identity::UserId, store::Micros};

type Failure = Box<dyn Error + Sync + Send>;

/// The type of the user id columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdType {
    /// `uuid`.
    Uuid,
    /// `bigint`, `integer` or `smallint`; written and compared as `bigint`.
    Int,
}

impl IdType {
    /// Its name in a cast.
    pub(super) fn sql(self) -> &'static str {
        match self {
            IdType::Uuid => "uuid",
            IdType::Int => "bigint",
        }
    }

    /// Whether a column of this type can hold `id`.
    pub(super) fn holds(self, id: UserId) -> bool {
        matches!((self, id), (IdType::Uuid, UserId::Uuid(_)) | (IdType::Int, UserId::Int(_)))
    }
}

/// A user id as a parameter (of type `uuid` or `bigint`), in a COPY (of the column's own type), or out of a column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key(pub(super) UserId);

impl ToSql for Key {
    fn to_sql(&self, column: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        match self.0 {
            UserId::Uuid(id) if *column == Type::UUID => id.to_sql(column, out),
            UserId::Int(id) if *column == Type::INT8 => id.to_sql(column, out),
            UserId::Int(id) if *column == Type::INT4 => i32::try_from(id)?.to_sql(column, out),
            UserId::Int(id) if *column == Type::INT2 => i16::try_from(id)?.to_sql(column, out),
            _ => Err("a user id of another type than the column's".into()),
        }
    }

    fn accepts(column: &Type) -> bool {
        matches!(*column, Type::UUID | Type::INT8 | Type::INT4 | Type::INT2)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Key {
    fn from_sql(column: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Key(match *column {
            Type::UUID => UserId::Uuid(Uuid::from_sql(column, raw)?),
            Type::INT8 => UserId::Int(i64::from_sql(column, raw)?),
            Type::INT4 => UserId::Int(i32::from_sql(column, raw)?.into()),
            _ => UserId::Int(i16::from_sql(column, raw)?.into()),
        }))
    }

    fn accepts(column: &Type) -> bool {
        matches!(*column, Type::UUID | Type::INT8 | Type::INT4 | Type::INT2)
    }
}

/// A `timestamp with time zone`. On the wire it counts microseconds from the start of the year 2000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(pub(super) Micros);

/// 2000-01-01T00:00:00Z.
const WIRE_EPOCH: Micros = 946_684_800_000_000;

impl ToSql for Moment {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_i64(self.0.saturating_sub(WIRE_EPOCH));
        Ok(IsNull::No)
    }

    fn accepts(column: &Type) -> bool {
        *column == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        // Saturating: `infinity` is the greatest number on the wire.
        Ok(Moment(i64::from_be_bytes(raw.try_into()?).saturating_add(WIRE_EPOCH)))
    }

    fn accepts(column: &Type) -> bool {
        *column == Type::TIMESTAMPTZ
    }
}

/// Rows in the binary format of COPY (PostgreSQL manual, COPY), to be sent as one piece. In pieces of 4 KiB, as
/// tokio-postgres' `BinaryCopyInWriter` sends them, a batch of 1,024 took some per cent longer and a fifth more of our CPU.
#[derive(Debug)]
pub(super) struct CopyRows {
    out: BytesMut,
}

impl CopyRows {
    /// No rows yet, and room for so many bytes of them.
    pub(super) fn with_capacity(bytes: usize) -> CopyRows {
        let mut out = BytesMut::with_capacity(bytes);
        out.put_slice(b"PGCOPY\n\xff\r\n\0");
        // No flags, no extension of the header.
        out.put_slice(&[0; 8]);
        CopyRows { out }
    }

    /// Adds a row, each value as the very type of its column. After an error the rows are of no use.
    pub(super) fn push(&mut self, values: &[&dyn ToSql], types: &[Type]) -> Result<(), Failure> {
        self.out.put_i16(values.len().try_into()?);
        for (value, column) in values.iter().zip(types) {
            let start = self.out.len();
            self.out.put_i32(-1);
            if let IsNull::No = value.to_sql_checked(column, &mut self.out)? {
                let length = i32::try_from(self.out.len() - start - 4)?;
                self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }

    /// The whole, with the mark of its end.
    pub(super) fn finish(mut self) -> Bytes {
        self.out.put_i16(-1);
        self.out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_the_wire() {
        for (moment, wire) in [(WIRE_EPOCH, 0), (0, -WIRE_EPOCH), (1_700_000_000_123_456, 753_315_200_123_456)] {
            let mut out = BytesMut::new();
            Moment(moment).to_sql(&Type::TIMESTAMPTZ, &mut out).unwrap();
            assert_eq!(out[..], i64::to_be_bytes(wire));
            assert_eq!(Moment::from_sql(&Type::TIMESTAMPTZ, &out).unwrap(), Moment(moment));
        }
        let infinity = i64::MAX.to_be_bytes();
        assert_eq!(Moment::from_sql(&Type::TIMESTAMPTZ, &infinity).unwrap(), Moment(i64::MAX));
    }

    #[test]
    fn a_user_id_never_passes_for_one_of_the_other_type() {
        let mut out = BytesMut::new();
        assert!(Key(UserId::Int(7)).to_sql(&Type::UUID, &mut out).is_err());
        assert!(Key(UserId::Uuid(Uuid::nil())).to_sql(&Type::INT8, &mut out).is_err());
        assert!(Key(UserId::Int(1 << 31)).to_sql(&Type::INT4, &mut out).is_err());
        assert!(Key(UserId::Int(1 << 15)).to_sql(&Type::INT2, &mut out).is_err());
        assert_eq!(Key::from_sql(&Type::INT4, &7_i32.to_be_bytes()).unwrap().0, UserId::Int(7));
    }

    #[test]
    fn a_row_of_a_copy_is_its_values_with_their_lengths() {
        let mut rows = CopyRows::with_capacity(0);
        rows.push(&[&Key(UserId::Int(7)), &None::<&str>, &"abc"], &[Type::INT2, Type::TEXT, Type::VARCHAR]).unwrap();
        let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".as_slice();
        let row = b"\0\x03\0\0\0\x02\0\x07\xff\xff\xff\xff\0\0\0\x03abc".as_slice();
        assert_eq!(rows.finish(), [header, row, b"\xff\xff"].concat());
        assert!(CopyRows::with_capacity(0).push(&[&"abc"], &[Type::JSONB]).is_err());
    }
}

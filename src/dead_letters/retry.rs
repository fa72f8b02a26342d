//! Dead letters once more into the database.
//!
//! In: letters, and the database. Out: which are saved now, and what the database says of the others. Changes no file:
//! whoever asked removes the saved ones after this, so that an end in between costs nothing but another attempt.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{file::Verdict, letter::Letter};
use crate::{
    store::{InsertError, Row},
    writer::{Save, halves},
};

/// What became of the letters that were tried.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// In the table: these letters may go.
    pub saved: HashSet<Uuid>,
    /// Refused again, and why.
    pub refused: HashMap<Uuid, String>,
}

impl Retried {
    /// Tries letters, in bulk where the database takes them so, and adds what became of them.
    ///
    /// # Errors
    /// The database went away, or may have saved a piece and may not. What is known of the letters until then has been
    /// added.
    pub async fn try_all(&mut self, store: &mut impl Save, letters: &[Letter]) -> Result<(), InsertError> {
        let rows: Vec<Row<'_>> = letters.iter().map(Letter::row).collect();
        let whole = 0..rows.len();
        // The pieces still to be saved, the next one last.
        let mut pieces = vec![whole];
        while let Some(piece) = pieces.pop() {
            let tried = &rows[piece.clone()];
            match store.insert(tried).await {
                Ok(()) => self.saved.extend(tried.iter().map(|row| row.id)),
                Err(InsertError::Refused(reason)) => match (halves(&piece), tried) {
                    (Some((first, second)), _) => pieces.extend([second, first]),
                    (None, rows) => self.refused.extend(rows.iter().map(|row| (row.id, reason.clone()))),
                },
                Err(away) => return Err(away),
            }
        }
        Ok(())
    }

    /// What this means for a letter in the file.
    pub fn verdict(&self, letter: &Letter) -> Verdict {
        match self.refused.get(&letter.id) {
            _ if self.saved.contains(&letter.id) => Verdict::Remove,
            Some(reason) if *reason != letter.reason => Verdict::KeepWith(reason.clone()),
            _ => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::UserId;

    /// A database that refuses the texts "bad", and goes away at the text "away".
    struct Table(Vec<String>);

    impl Save for Table {
        async fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
            let has = |text: &str| rows.iter().any(|row| row.content == text);
            if has("bad") {
                return Err(InsertError::Refused("no".into()));
            }
            if has("away") {
                return Err(InsertError::InDoubt("cut".into()));
            }
            self.0.extend(rows.iter().map(|row| row.content.to_owned()));
            Ok(())
        }
    }

    fn letters(texts: &[&str]) -> Vec<Letter> {
        let letter = |(nth, text): (usize, &&str)| Letter {
            refused_at: 0,
            reason: "once".into(),
            id: Uuid::from_u128(nth as u128),
            room: Uuid::nil(),
            sender: UserId::Int(1),
            sender_username: "ann".into(),
            receiver: None,
            timestamp: 0,
            text: (*text).into(),
        };
        texts.iter().enumerate().map(letter).collect()
    }

    #[tokio::test]
    async fn a_letter_that_is_refused_again_holds_up_no_other() {
        let letters = letters(&["a", "bad", "c", "d", "bad"]);
        let (mut table, mut retried) = (Table(Vec::new()), Retried::default());
        retried.try_all(&mut table, &letters).await.unwrap();
        assert_eq!(table.0, ["a", "c", "d"], "in their order");
        let verdicts: Vec<_> = letters.iter().map(|letter| retried.verdict(letter)).collect();
        let again = Verdict::KeepWith("no".into());
        assert_eq!(verdicts, [Verdict::Remove, again.clone(), Verdict::Remove, Verdict::Remove, again]);
        assert_eq!(retried.verdict(&Letter { reason: "no".into(), ..letters[1].clone() }), Verdict::Keep);
        retried.try_all(&mut table, &[]).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_known_when_the_database_goes_stays() {
        let letters = letters(&["a", "bad", "away", "d"]);
        let (mut table, mut retried) = (Table(Vec::new()), Retried::default());
        let error = retried.try_all(&mut table, &letters).await.unwrap_err();
        assert_eq!(error, InsertError::InDoubt("cut".into()));
        let verdicts: Vec<_> = letters.iter().map(|letter| retried.verdict(letter)).collect();
        assert_eq!(verdicts, [Verdict::Remove, Verdict::KeepWith("no".into()), Verdict::Keep, Verdict::Keep]);
    }
}

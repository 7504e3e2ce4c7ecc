//! The ledger of an account: by page, or as a complete export.

use futures_util::Stream;
use std::fmt::Write as _;

use super::{Reports, ReportsError, csv};
use crate::store::StoreError;
use crate::store::ledger::{EntriesPage, EntryFilter, EntryOfCall};
use domain::{ChargeId, EntryKind, Environment, LedgerEntry, PaymentId, UserId};

/// Entries of an export in memory at once.
const EXPORT_PAGE: u64 = 1_000;

/// The CSV header of an export.
pub const ENTRIES_CSV_HEAD: &str = "sequence,created_at,kind,amount,balance_after,currency,reference,key_id,endpoint,model,status,\
prompt_tokens,completion_tokens\r\n";

impl Reports {
    /// A page of the ledger, newest first.
    pub async fn transactions(
        &self,
        user: UserId,
        environment: Environment,
        before: Option<i64>,
        limit: u64,
        filter: EntryFilter,
    ) -> Result<EntriesPage, ReportsError> {
        let account = self.account(user, environment).await?;
        Ok(self.store.list_entries(account, true, before, limit, filter).await?)
    }

    /// The ledger up to now, oldest first. The stream reads the next page when the client has taken
    /// the one before. It ends after an error.
    pub async fn export(
        &self,
        user: UserId,
        environment: Environment,
        mut filter: EntryFilter,
    ) -> Result<impl Stream<Item = Result<Vec<EntryOfCall>, StoreError>> + use<>, ReportsError>
    {
        let account = self.account(user, environment).await?;
        let now = self.gateway.clock.now().plus_micros(1);
        filter.until = Some(filter.until.map_or(now, |until| until.min(now)));
        let store = self.store.clone();
        let next = move |after: Option<i64>| {
            let (store, filter) = (store.clone(), filter.clone());
            async move {
                let after = after?;
                let page = store.list_entries(account, false, Some(after), EXPORT_PAGE, filter);
                Some(match page.await {
                    Ok(page) => (Ok(page.entries), page.next),
                    Err(error) => (Err(error), None),
                })
            }
        };
        Ok(futures_util::stream::unfold(Some(0), next))
    }
}

/// The id of the payment, user or call that an entry belongs to. `owner` is the user whose account
/// it is: what an operator gives or takes is of that user, or of a call that it corrects.
#[must_use]
pub fn reference(entry: &LedgerEntry, owner: UserId) -> String {
    match entry.kind {
        EntryKind::TopUp
        | EntryKind::PaymentRefund
        | EntryKind::Dispute
        | EntryKind::Reinstatement => PaymentId(entry.reference).to_string(),
        EntryKind::Grant | EntryKind::Deduction if entry.reference == owner.0 => owner.to_string(),
        EntryKind::Grant
        | EntryKind::Deduction
        | EntryKind::Charge
        | EntryKind::Capture
        | EntryKind::Refund => ChargeId(entry.reference).to_string(),
    }
}

/// Appends the CSV row of an entry, with the columns of [`ENTRIES_CSV_HEAD`].
pub fn entry_csv(text: &mut String, of_call: &EntryOfCall, owner: UserId) {
    let EntryOfCall { entry, endpoint, model, status, tokens } = of_call;
    let (prompt, completion) = match tokens {
        Some((prompt, completion)) => (prompt.to_string(), completion.to_string()),
        None => (String::new(), String::new()),
    };
    let _ = write!(
        text,
        "{},{},{},{},{},USD,{},{},{},{},{},{prompt},{completion}\r\n",
        entry.seq,
        entry.at.to_rfc3339_micros(),
        entry.kind.name(),
        entry.amount,
        entry.balance_after,
        reference(entry, owner),
        entry.key.map(|key| key.to_string()).unwrap_or_default(),
        csv::text(endpoint.as_ref().map_or("", |(_, route)| route)),
        csv::text(model),
        status.map(|status| status.to_string()).unwrap_or_default(),
    );
}

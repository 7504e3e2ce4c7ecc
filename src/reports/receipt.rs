//! Receipts of confirmed payments.

use super::html::page;
use super::{Reports, ReportsError};
use crate::store::payments::Payment;
use crate::store::users::User;
use domain::{Credits, PaymentId, PaymentStatus, Reversal, Timestamp, UserId};

/// A confirmed payment, and what its provider took back.
#[derive(Clone, Debug)]
pub struct PaymentReceipt {
    /// The payment.
    pub payment: Payment,
    /// The sum taken back so far.
    pub reversed: Credits,
    /// Each refund and dispute.
    pub reversals: Vec<Reversal>,
}

impl Reports {
    /// The receipt of one of the user's payments.
    pub async fn receipt(
        &self,
        user: UserId,
        id: PaymentId,
    ) -> Result<PaymentReceipt, ReportsError> {
        let account = self.store.users.accounts_of(user).await?.live;
        let payment = self.store.payments.find(id).await?;
        let payment = payment.filter(|payment| payment.account == account);
        let payment = payment.ok_or(ReportsError::NoPayment)?;
        if payment.status != PaymentStatus::Confirmed {
            return Err(ReportsError::NotConfirmed);
        }
        let reversals = self.store.payments.list_reversals(id).await?;
        let reversed = reversals.iter().fold(Credits::ZERO, |sum, reversal| {
            sum.checked_add(reversal.taken).unwrap_or(Credits::MAX)
        });
        Ok(PaymentReceipt { payment, reversed, reversals })
    }
}

impl PaymentReceipt {
    fn paid_at(&self) -> String {
        self.payment.confirmed_at.map(Timestamp::to_rfc3339).unwrap_or_default()
    }

    /// The receipt as CSV: a header and one row.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let (Payment { id, amount, provider, .. }, reversed) = (&self.payment, self.reversed);
        let head = "payment,paid_at,provider,amount,taken_back,currency";
        format!("{head}\r\n{id},{},{provider},{amount},{reversed},USD\r\n", self.paid_at())
    }

    /// The receipt as an HTML page for printing.
    #[must_use]
    pub fn to_html(&self, user: &User) -> String {
        let mut facts = vec![
            ["Payment".to_owned(), self.payment.id.to_string()],
            ["Paid".into(), format!("${}", self.payment.amount)],
            ["By".into(), self.payment.provider.clone()],
            ["At".into(), self.paid_at()],
            ["For".into(), "API credits".into()],
        ];
        if self.reversed > Credits::ZERO {
            facts.push(["Taken back".into(), format!("${}", self.reversed)]);
        }
        page("Receipt", user, &facts, "")
    }
}

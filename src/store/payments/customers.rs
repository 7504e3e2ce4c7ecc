//! Users' customer ids at payment providers.

use sea_orm::{ConnectionTrait, QueryResult, Statement, Value};

use super::PaymentStore;
use crate::store::StoreError;
use crate::store::connections::{execute, query};
use domain::UserId;

impl PaymentStore {
    /// The user's customer id at a provider, if there is one.
    pub async fn find_customer(
        &self,
        user: UserId,
        provider: &'static str,
    ) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT provider_ref FROM customer WHERE user_id = $1 AND provider = $2";
        self.database
            .run(move |database| async move {
                let backend = database.read.get_database_backend();
                let values = [user.0.into(), provider.into()];
                let row = Statement::from_sql_and_values(backend, SQL, values);
                let row = database.read.query_one_raw(row).await?;
                Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
            })
            .await
    }

    /// Inserts the user's customer id at a provider. Returns the stored one, which differs if two
    /// are inserted at the same time.
    pub async fn insert_customer(
        &self,
        user: UserId,
        provider: &'static str,
        provider_ref: String,
    ) -> Result<String, StoreError> {
        const SQL: &str = "INSERT INTO customer (user_id, provider, provider_ref)
            VALUES ($1, $2, $3) ON CONFLICT (user_id, provider) DO NOTHING";
        let values: Vec<Value> = vec![user.0.into(), provider.into(), provider_ref.clone().into()];
        self.database
            .run_write(move |database| async move {
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await?;
        Ok(self.find_customer(user, provider).await?.unwrap_or(provider_ref))
    }

    /// Users who are erased, and whom a provider is to forget: a limited number.
    pub async fn list_erased_customers(
        &self,
        provider: &'static str,
    ) -> Result<Vec<(UserId, String)>, StoreError> {
        const SQL: &str = "SELECT user_id, provider_ref FROM customer
            INNER JOIN users ON users.id = customer.user_id
            WHERE users.erased_at IS NOT NULL AND provider = $1 ORDER BY users.erased_at LIMIT 100";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![provider.into()]).await?;
                let customer = |row: &QueryResult| {
                    Ok((UserId(row.try_get_by_index(0)?), row.try_get_by_index(1)?))
                };
                rows.iter().map(customer).collect()
            })
            .await
    }

    /// Deletes the name of a user whom a provider has forgotten.
    pub async fn delete_customer(
        &self,
        user: UserId,
        provider: &'static str,
    ) -> Result<(), StoreError> {
        const SQL: &str = "DELETE FROM customer WHERE user_id = $1 AND provider = $2";
        self.database
            .run_write(move |database| async move {
                execute(&database.write, SQL, vec![user.0.into(), provider.into()]).await?;
                Ok(())
            })
            .await
    }
}

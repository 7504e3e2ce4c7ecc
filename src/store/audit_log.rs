//! The audit log: who did what, from where, and when.

use std::sync::Arc;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect as _,
};
use uuid::Uuid;

use super::StoreError;
use super::connections::Connections;
use super::sql::begin_write;
use domain::{Act, ActKind, Actor, Origin, Timestamp, UserId};
use entity::audit_log;

/// Acts of one kind that are read at once.
const ACTS_MAX: u64 = 1_000;
/// Most acts that are looked through for one page of those that a filter lets through.
const LOOKED_THROUGH_MAX: u64 = 20_000;
/// An act may have been done so much after one with a greater id, in microseconds.
const DISORDER_MICROS: i64 = 60_000_000;

/// Which acts. Each field that is set leaves fewer.
#[derive(Clone, Debug, Default)]
pub struct ActFilter {
    /// Those that concern this user.
    pub user: Option<UserId>,
    /// Those of this kind of actor, by its code.
    pub actor: Option<i16>,
    /// Those of this person.
    pub person: Option<UserId>,
    /// Those of this kind.
    pub kind: Option<ActKind>,
    /// Not from before this time.
    pub from: Option<Timestamp>,
    /// From before this time.
    pub until: Option<Timestamp>,
    /// Those that came from this address.
    pub address: Option<String>,
}

impl ActFilter {
    /// The part that the primary key or the index of users answers.
    fn base(&self, before: Option<Uuid>) -> Condition {
        Condition::all()
            .add_option(self.user.map(|user| audit_log::Column::UserId.eq(user.0)))
            .add_option(before.map(|before| audit_log::Column::Id.lt(before)))
    }

    /// The rest.
    fn rest(&self) -> Condition {
        use audit_log::Column::{Actor, ActorId, Address, At, Kind};
        Condition::all()
            .add_option(self.actor.map(|actor| Actor.eq(actor)))
            .add_option(self.person.map(|person| ActorId.eq(person.0)))
            .add_option(self.kind.map(|kind| Kind.eq(kind.name())))
            .add_option(self.from.map(|from| At.gte(from.micros())))
            .add_option(self.until.map(|until| At.lt(until.micros())))
            .add_option(self.address.as_ref().map(|address| Address.eq(address.as_str())))
    }
}

/// Writes an act. Writing the same act again changes nothing.
pub(in crate::store) async fn insert(
    connection: &impl ConnectionTrait,
    act: &Act,
) -> Result<(), DbErr> {
    let Origin { actor, address, agent } = &act.origin;
    let row = audit_log::ActiveModel {
        id: Set(act.id),
        at: Set(act.at.micros()),
        user_id: Set(act.user.0),
        actor: Set(actor.code()),
        actor_id: Set(actor.person().map(|person| person.0)),
        kind: Set(act.kind.name().to_owned()),
        subject: Set(act.subject.clone()),
        detail: Set(act.detail.clone()),
        address: Set(address.clone()),
        agent: Set(agent.clone()),
    };
    audit_log::Entity::insert(row)
        .on_conflict_do_nothing_on([audit_log::Column::Id])
        .exec_without_returning(connection)
        .await
        .map(drop)
}

fn act(row: audit_log::Model) -> Result<Act, StoreError> {
    let corrupt = || StoreError::Corrupt(format!("the act {} cannot be read", row.id));
    let person = row.actor_id.map(UserId);
    let actor = Actor::from_code(row.actor, person).ok_or_else(corrupt)?;
    let kind = ActKind::from_name(&row.kind).ok_or_else(corrupt)?;
    Ok(Act {
        id: row.id,
        at: Timestamp::from_micros(row.at),
        user: UserId(row.user_id),
        origin: Origin { actor, address: row.address, agent: row.agent },
        kind,
        subject: row.subject,
        detail: row.detail,
    })
}

/// The audit log of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditLogStore {
    database: Arc<Connections>,
}

impl AuditLogStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        AuditLogStore { database }
    }

    /// Writes an act that changes nothing else.
    pub async fn record(&self, act: Act) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move { Ok(insert(&database.write, &act).await?) })
            .await
    }

    /// Writes acts that change nothing else: all or none.
    pub async fn record_all(&self, acts: Vec<Act>) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                for act in &acts {
                    insert(&transaction, act).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Writes such an act in the background, so that the time of the answer does not reveal whether
    /// anything was written.
    pub fn record_later(&self, act: Act) {
        let log = self.clone();
        self.database.runtime.spawn(async move {
            let record = |act| {
                log.database.run_job(move |database| async move {
                    Ok(insert(&database.write, &act).await?)
                })
            };
            let recorded = match record(act.clone()).await {
                // The connection may have been lost. A repeat writes the same row once.
                Err(StoreError::OutcomeUnknown(_)) => record(act).await,
                recorded => recorded,
            };
            if let Err(error) = recorded {
                tracing::error!(%error, "an act is not in the audit log");
            }
        });
    }

    /// Acts, latest first: all, or those that concern `user`; only those before the act `before`,
    /// if it is given.
    pub async fn list(
        &self,
        user: Option<UserId>,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Act>, StoreError> {
        self.database
            .run(move |database| async move {
                let mut query = audit_log::Entity::find().order_by_desc(audit_log::Column::Id);
                if let Some(user) = user {
                    query = query.filter(audit_log::Column::UserId.eq(user.0));
                }
                if let Some(before) = before {
                    query = query.filter(audit_log::Column::Id.lt(before));
                }
                let rows = query.limit(limit).all(&database.read).await?;
                rows.into_iter().map(act).collect()
            })
            .await
    }

    /// A page of the acts that a filter lets through, latest first, and the act from which the next
    /// page goes on. A page may be short or empty although more follow.
    pub async fn search(
        &self,
        filter: ActFilter,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<(Vec<Act>, Option<Uuid>), StoreError> {
        self.database
            .run(move |database| async move {
                let latest = || {
                    let of_base = audit_log::Entity::find().filter(filter.base(before));
                    of_base.order_by_desc(audit_log::Column::Id)
                };
                let last = latest().offset(LOOKED_THROUGH_MAX.saturating_sub(1));
                let last = last.limit(1).one(&database.read).await?;
                // What is older than that is too old.
                let is_end = last.as_ref().is_some_and(|last| {
                    let at = Timestamp::from_micros(last.at).plus_micros(DISORDER_MICROS);
                    filter.from.is_some_and(|from| at < from)
                });
                let last = last.map(|last| last.id);
                let mut query = latest().filter(filter.rest());
                if let Some(last) = last {
                    query = query.filter(audit_log::Column::Id.gte(last));
                }
                let rows = query.limit(limit.saturating_add(1)).all(&database.read).await?;
                let mut acts: Vec<Act> = rows.into_iter().map(act).collect::<Result<_, _>>()?;
                let fit = usize::try_from(limit).unwrap_or(usize::MAX);
                if acts.len() <= fit {
                    return Ok((acts, last.filter(|_| !is_end)));
                }
                acts.truncate(fit);
                let next = acts.last().map(|act| act.id);
                Ok((acts, next))
            })
            .await
    }

    /// The latest acts of a kind that concern `user`, since then, latest first.
    pub async fn list_since(
        &self,
        user: UserId,
        kind: ActKind,
        since: Timestamp,
    ) -> Result<Vec<Act>, StoreError> {
        self.database
            .run(move |database| async move {
                let rows = audit_log::Entity::find()
                    .filter(audit_log::Column::UserId.eq(user.0))
                    .filter(audit_log::Column::Kind.eq(kind.name()))
                    .filter(audit_log::Column::At.gte(since.micros()))
                    .order_by_desc(audit_log::Column::Id)
                    .limit(ACTS_MAX)
                    .all(&database.read)
                    .await?;
                rows.into_iter().map(act).collect()
            })
            .await
    }
}

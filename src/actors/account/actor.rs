//! The account actor: the mailbox in which requests wait for their turn.
//!
//! It has no state. A message carries the slot it is for, and decides on the actor's thread, which
//! alone waits for the turn.

use actix::{Actor, ActorContext as _, Context, Handler, Message};

/// An account's mailbox. Made only if a request has to wait.
pub(super) struct AccountActor;

impl Actor for AccountActor {
    type Context = Context<Self>;
}

/// A request that waits for its turn: it decides, and answers the caller.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Queued(pub(super) Box<dyn FnOnce() + Send>);

impl Handler<Queued> for AccountActor {
    type Result = ();

    fn handle(&mut self, Queued(decide): Queued, _: &mut Context<Self>) {
        decide();
    }
}

/// Ends the actor. Sent after the slot has let go of it.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

impl Handler<Stop> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

//! The account actor: a mailbox in which requests wait for their turn.
//!
//! It has no state. A message contains the request and its slot. It waits for the turn and decides
//! on the actor's thread.

use actix::{Actor, ActorContext as _, Context, Handler, Message};

/// The mailbox of an account. It is created when the first request has to wait.
pub(super) struct AccountActor;

impl Actor for AccountActor {
    type Context = Context<Self>;
}

/// A request that waits for its turn. Running it decides the request and answers the caller.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Queued(pub(super) Box<dyn FnOnce() + Send>);

impl Handler<Queued> for AccountActor {
    type Result = ();

    fn handle(&mut self, Queued(decide): Queued, _: &mut Context<Self>) {
        decide();
    }
}

/// Stops the actor. It is sent after the slot has dropped its address.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

impl Handler<Stop> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

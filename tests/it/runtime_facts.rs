//! What the code relies on in actix, actix-web and tokio, pinned, so that an upgrade that changes
//! it is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, Arbiter, Context, Handler, Message, System};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, test as web_test, web};
use tokio::sync::oneshot;

struct Counter(Arc<AtomicUsize>);

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Count {
    expected: Option<usize>,
    reply: Option<oneshot::Sender<()>>,
}

impl Handler<Count> for Counter {
    type Result = ();

    fn handle(&mut self, count: Count, _: &mut Self::Context) {
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(count.expected.is_none_or(|expected| expected == before), "out of order");
        if let Some(reply) = count.reply {
            let _ = reply.send(());
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Die;

impl Handler<Die> for Counter {
    type Result = ();

    fn handle(&mut self, _: Die, _: &mut Self::Context) {
        panic!("on purpose");
    }
}

/// The mailbox is no bound: permits of our own are.
#[test]
fn a_mailbox_takes_all_messages_at_once_and_keeps_their_order() {
    System::new().block_on(async {
        let counted = Arc::new(AtomicUsize::new(0));
        let arbiter = Arbiter::new();
        let theirs = Arc::clone(&counted);
        let actor = Counter::start_in_arbiter(&arbiter.handle(), move |_| Counter(theirs));
        let begun = Instant::now();
        for expected in 0..10_000 {
            actor.do_send(Count { expected: Some(expected), reply: None });
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        let (reply, answer) = oneshot::channel();
        actor.do_send(Count { expected: Some(10_000), reply: Some(reply) });
        answer.await.unwrap();
        assert_eq!(counted.load(Ordering::SeqCst), 10_001);
    });
}

/// The handles' replies notice a dead actor, and the directory sees it by `connected`.
#[test]
fn a_panic_ends_one_actor_and_closes_the_replies_of_its_messages() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let start = || Counter::start_in_arbiter(&arbiter.handle(), |_| Counter(Arc::default()));
        let (dying, neighbour) = (start(), start());
        dying.do_send(Die);
        let (reply, answer) = oneshot::channel();
        dying.do_send(Count { expected: None, reply: Some(reply) });
        assert!(answer.await.is_err());
        assert!(!dying.connected());
        let (reply, answer) = oneshot::channel();
        dying.do_send(Count { expected: None, reply: Some(reply) });
        assert!(answer.await.is_err());
        let (reply, answer) = oneshot::channel();
        neighbour.do_send(Count { expected: None, reply: Some(reply) });
        answer.await.unwrap();
        assert!(neighbour.connected());
    });
}

/// A message whose reply nobody waits for is handled all the same: a charge is never skipped
/// silently.
#[test]
fn a_message_is_handled_though_nobody_waits_for_its_reply() {
    System::new().block_on(async {
        let counted = Arc::new(AtomicUsize::new(0));
        let actor = Counter(Arc::clone(&counted)).start();
        let (reply, answer) = oneshot::channel();
        actor.do_send(Count { expected: None, reply: Some(reply) });
        drop(answer);
        let (reply, answer) = oneshot::channel();
        actor.do_send(Count { expected: None, reply: Some(reply) });
        answer.await.unwrap();
        assert_eq!(counted.load(Ordering::SeqCst), 2);
    });
}

struct Slow;
struct Fast;

impl FromRequest for Slow {
    type Error = actix_web::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(actix_web::error::ErrorUnauthorized("slow"))
        })
    }
}

impl FromRequest for Fast {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(Err(actix_web::error::ErrorPaymentRequired("fast")))
    }
}

/// The order of refusals must not be left to extractors; hence one function with awaits in order,
/// and a [`Body`](polysystems) that judges nothing until it is asked.
#[test]
fn extractors_overtake_one_another() {
    System::new().block_on(async {
        let handler = |_: Slow, _: Fast| async { HttpResponse::Ok().finish() };
        let app =
            web_test::init_service(actix_web::App::new().route("/", web::get().to(handler))).await;
        let response =
            web_test::call_service(&app, web_test::TestRequest::get().to_request()).await;
        assert_eq!(response.status().as_u16(), 402);
    });
}

/// What the ledger writer has begun on other threads ends with it.
#[tokio::test]
async fn a_dropped_join_set_ends_its_tasks_and_a_panic_is_told() {
    let (sender, dropped) = oneshot::channel::<()>();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move {
        let _sender = sender;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    drop(running);
    let ended = tokio::time::timeout(Duration::from_secs(10), dropped).await;
    assert!(ended.expect("it goes on").is_err());

    let mut running = tokio::task::JoinSet::new();
    running.spawn(async { panic!("on purpose") });
    assert!(running.join_next().await.unwrap().unwrap_err().is_panic());
}

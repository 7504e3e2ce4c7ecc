//! Delivers events to webhook endpoints: a signed POST for each, retried for three days.
//!
//! Users choose the addresses that this server connects to, so they could try to reach its private
//! network (SSRF). Therefore a name is resolved again for each attempt, and the server connects
//! only to public addresses. It follows no redirect, reuses no connection, uses no proxy, and reads
//! only the beginning of an answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Webhooks, check_url, payload};
use crate::store::StoreError;
use crate::store::webhooks::{
    Attempt, Destination, DueDelivery, DueEndpoint, EventToSend, Verdict,
};
use domain::address::is_public;
use domain::delivery::{DEAD_MICROS, pause};
use domain::{AccountId, EndpointId, Timestamp, UserId};

/// Bytes of an answer that are stored for the endpoint's owner.
const ANSWER_MAX: usize = 1_024;
/// Longest wait before the next check for due deliveries.
const PERIOD: Duration = Duration::from_millis(500);
/// Most deliveries to one endpoint in one run.
const DELIVERIES_PER_RUN_MAX: u32 = 20;
/// Most endpoints of one account that are served at once.
const SERVED_PER_ACCOUNT_MAX: usize = 4;
/// Turns for which it is known which account had which.
const TURNS_KNOWN: u64 = 10_000;
/// After a failure an endpoint rests for this multiple of the time that the attempt took.
const REST_TIMES: u32 = 4;
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_mins(1);

/// Resolves a name to addresses.
pub type Lookup = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>
        + Send
        + Sync,
>;

/// The system's resolver.
#[must_use]
pub fn system_lookup() -> Lookup {
    Arc::new(|name: String| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// A resolver that returns only public addresses.
struct PublicOnly {
    lookup: Lookup,
    is_private_allowed: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.lookup)(name.as_str().to_owned());
        let is_private_allowed = self.is_private_allowed;
        Box::pin(async move {
            let found = found.await?;
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_private_allowed || is_public(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if allowed.is_empty() {
                return Err("the name has no address on the public internet".into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

/// An endpoint that the server switched off. Its owner must be notified.
#[derive(Clone, Debug)]
pub struct EndpointDisabled {
    /// The owner.
    pub user: UserId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its URL.
    pub url: String,
}

/// The endpoints that are being served, and those that rest.
#[derive(Default)]
struct Active {
    /// Endpoints being served, with their accounts.
    serving: BTreeMap<EndpointId, AccountId>,
    /// Endpoints that failed, and when their rest ends.
    resting: BTreeMap<EndpointId, Instant>,
    /// The number of the last turn, and of the last one of each account.
    turn: u64,
    turns: BTreeMap<AccountId, u64>,
}

impl Active {
    /// The endpoints in the order in which they are to be served. An account of which less is being
    /// served comes first, then the one whose last turn is longest ago, then what has waited
    /// longest. So many due endpoints are of no use, however long they have waited.
    fn in_turn(&self, due: Vec<DueEndpoint>) -> Vec<DueEndpoint> {
        let mut served: BTreeMap<AccountId, usize> = BTreeMap::new();
        for account in self.serving.values() {
            let count = served.entry(*account).or_default();
            *count = count.saturating_add(1);
        }
        let mut due: Vec<_> = due
            .into_iter()
            .map(|endpoint| {
                let before = served.entry(endpoint.account).or_default();
                let place = *before;
                *before = before.saturating_add(1);
                let last_turn = self.turns.get(&endpoint.account).copied().unwrap_or(0);
                ((place, last_turn), endpoint)
            })
            .collect();
        due.sort_by_key(|(key, _)| *key);
        due.into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    /// Notes that it is the turn of an account.
    fn take_turn(&mut self, account: AccountId) {
        let turn = self.turn.saturating_add(1);
        self.turn = turn;
        self.turns.insert(account, turn);
        if turn.is_multiple_of(TURNS_KNOWN) {
            self.turns.retain(|_, last| last.saturating_add(TURNS_KNOWN) > turn);
        }
    }
}

/// Marks an endpoint as being served until it is dropped.
struct ServingGuard {
    active: Arc<Mutex<Active>>,
    endpoint: EndpointId,
}

impl Drop for ServingGuard {
    fn drop(&mut self) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.serving.remove(&self.endpoint);
    }
}

/// Delivers events. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    webhooks: Arc<Webhooks>,
    client: reqwest::Client,
    active: Arc<Mutex<Active>>,
    permits: Arc<Semaphore>,
    /// Those that endpoints may have that have failed: half of all.
    failing: Arc<Semaphore>,
    may_go: Arc<dyn Fn() -> bool + Send + Sync>,
    notify: Arc<dyn Fn(EndpointDisabled) + Send + Sync>,
}

impl Dispatcher {
    /// A dispatcher that serves at most `at_once` endpoints at a time, with a `timeout` for each
    /// attempt. It works only while `may_go` returns true. It calls `notify` for each endpoint that
    /// it switches off.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        webhooks: Arc<Webhooks>,
        lookup: Lookup,
        timeout: Duration,
        at_once: usize,
        may_go: impl Fn() -> bool + Send + Sync + 'static,
        notify: impl Fn(EndpointDisabled) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let is_private_allowed = webhooks.is_private_allowed;
        let client = reqwest::Client::builder()
            .user_agent(concat!("Polysystems-Webhooks/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(timeout)
            .timeout(timeout)
            .dns_resolver(PublicOnly { lookup, is_private_allowed })
            .build()?;
        Ok(Dispatcher {
            webhooks,
            client,
            active: Arc::default(),
            permits: Arc::new(Semaphore::new(at_once)),
            failing: Arc::new(Semaphore::new(at_once.div_ceil(2))),
            may_go: Arc::new(may_go),
            notify: Arc::new(notify),
        })
    }

    /// Runs the dispatcher until the task is aborted.
    pub fn start(self) -> JoinHandle<()> {
        let runtime = self.webhooks.runtime.clone();
        runtime.spawn(async move {
            loop {
                let _ = tokio::time::timeout(PERIOD, self.webhooks.store.wait_for_events()).await;
                if !(self.may_go)() {
                    continue;
                }
                if let Err(error) = self.dispatch().await {
                    tracing::warn!(%error, "webhooks were not delivered");
                    tokio::time::sleep(PERIOD).await;
                }
            }
        })
    }

    /// Serves endpoints with due deliveries, as many as the limits allow. Accounts take turns. Of
    /// one account only a few are served at once, and at most half of all may be endpoints that
    /// have failed, so that others do not wait for them.
    async fn dispatch(&self) -> Result<(), StoreError> {
        let now = self.webhooks.clock.now();
        let unavailable = self.unavailable();
        let due = self.webhooks.store.list_due_endpoints(now, unavailable).await?;
        let due = self.active().in_turn(due);
        for endpoint in due {
            let failing = if endpoint.is_failing {
                let Ok(failing) = Arc::clone(&self.failing).try_acquire_owned() else { continue };
                Some(failing)
            } else {
                None
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { break };
            let Some(serving) = self.start_serving(endpoint) else { continue };
            let dispatcher = self.clone();
            tokio::spawn(async move {
                if let Err(error) = dispatcher.serve(endpoint, now).await {
                    tracing::warn!(%error, "an attempt to deliver a webhook was not recorded");
                }
                drop((permit, failing));
                drop(serving);
                dispatcher.webhooks.store.wake_dispatcher();
            });
        }
        Ok(())
    }

    /// The endpoints that are being served or that rest.
    fn unavailable(&self) -> Vec<EndpointId> {
        let (mut active, now) = (self.active(), Instant::now());
        active.resting.retain(|_, until| *until > now);
        active.serving.keys().chain(active.resting.keys()).copied().collect()
    }

    fn active(&self) -> std::sync::MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks an endpoint as being served; `None` if too many endpoints of its account are.
    fn start_serving(&self, endpoint: DueEndpoint) -> Option<ServingGuard> {
        let mut active = self.active();
        let of_account = active.serving.values().filter(|account| **account == endpoint.account);
        if of_account.count() >= SERVED_PER_ACCOUNT_MAX {
            return None;
        }
        active.serving.insert(endpoint.id, endpoint.account);
        active.take_turn(endpoint.account);
        Some(ServingGuard { active: Arc::clone(&self.active), endpoint: endpoint.id })
    }

    /// Sends the due deliveries in order. After a failure the endpoint rests, so that slow
    /// endpoints do not delay others.
    async fn serve(&self, endpoint: DueEndpoint, now: Timestamp) -> Result<(), StoreError> {
        for delivery in
            self.webhooks.store.list_due_deliveries(endpoint, now, DELIVERIES_PER_RUN_MAX).await?
        {
            let began = Instant::now();
            if self.deliver(delivery).await? {
                continue;
            }
            let rest = began.elapsed().saturating_mul(REST_TIMES).clamp(REST_MIN, REST_MAX);
            if let Some(until) = Instant::now().checked_add(rest) {
                self.active().resting.insert(endpoint.id, until);
            }
            break;
        }
        Ok(())
    }

    /// Attempts a delivery. Returns whether the endpoint accepted it.
    async fn deliver(&self, delivery: DueDelivery) -> Result<bool, StoreError> {
        let store = &self.webhooks.store;
        let now = self.webhooks.clock.now();
        let claimed = store.claim_event(delivery.event, delivery.endpoint, now).await?;
        // The endpoint was deleted or switched off in between.
        let Some((event, to)) = claimed else { return Ok(false) };
        let (attempt, asked) = self.attempt(&delivery, &event, &to, now).await;
        let is_taken = attempt.status.is_some_and(|status| (200..300).contains(&status));
        if let Some(count) = self.webhooks.metrics.webhooks.get(usize::from(!is_taken)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let tries = usize::try_from(delivery.attempts).unwrap_or(0).saturating_add(1);
        let jitter = rand::rng().random_range(0..1_000);
        let verdict = if is_taken {
            Verdict::Delivered
        } else if attempt.status == Some(410) {
            Verdict::GivenUp
        } else {
            match pause(tries, jitter, asked) {
                Some(pause) => Verdict::Again(attempt.at.plus_micros(pause)),
                None => Verdict::GivenUp,
            }
        };
        let dead_since = attempt.at.plus_micros(DEAD_MICROS.saturating_neg());
        let (account, endpoint, url) = (delivery.account, delivery.endpoint, to.url);
        if store.record_attempt(delivery, attempt, verdict, dead_since).await? {
            tracing::warn!(%endpoint, "a webhook endpoint does not answer and was switched off");
            let user = self.webhooks.users.owner_of(account).await?;
            (self.notify)(EndpointDisabled { user, endpoint, url });
        }
        Ok(is_taken)
    }

    async fn attempt(
        &self,
        delivery: &DueDelivery,
        event: &EventToSend,
        to: &Destination,
        at: Timestamp,
    ) -> (Attempt, Option<i64>) {
        let began = Instant::now();
        let result = self.post(delivery, event, to, at).await;
        let latency_micros = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
        match result {
            Ok((status, answer, asked)) => {
                let is_taken = (200..300).contains(&status);
                let error = (!is_taken).then(|| format!("answered {status}"));
                let status = Some(status);
                (Attempt { at, status, error, answer, latency_micros }, asked)
            }
            Err(error) => {
                let (status, answer) = (None, String::new());
                (Attempt { at, status, error: Some(error), answer, latency_micros }, None)
            }
        }
    }

    async fn post(
        &self,
        delivery: &DueDelivery,
        event: &EventToSend,
        to: &Destination,
        at: Timestamp,
    ) -> Result<(u16, String, Option<i64>), String> {
        let is_private_allowed = self.webhooks.is_private_allowed;
        let url = check_url(&to.url, is_private_allowed).map_err(str::to_owned)?;
        let (id, seconds) = (delivery.event.to_string(), at.seconds());
        let body = payload(&delivery.kind, event.at, &event.data);
        let signature = self.webhooks.signature(delivery.endpoint, to, &id, at, &body);
        let signature =
            signature.ok_or("the secret of the webhook cannot be decrypted; rotate it")?;
        let request = self
            .client
            .post(url)
            .header("Content-Type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", signature)
            .body(body);
        let mut answer = request.send().await.map_err(|error| reason(&error))?;
        let peer = answer.remote_addr().map(|address| address.ip());
        if peer.is_some_and(|peer| !is_private_allowed && !is_public(peer)) {
            tracing::error!(endpoint = %delivery.endpoint, "a webhook reached a private address");
            return Err("the address is in a private network".into());
        }
        let status = answer.status().as_u16();
        let asked = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let asked = asked.and_then(|text| text.parse().ok());
        let mut kept = Vec::new();
        while kept.len() < ANSWER_MAX {
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    let room = ANSWER_MAX.saturating_sub(kept.len());
                    kept.extend(chunk.iter().take(room));
                }
                // The status was received, even if the body breaks off.
                Ok(None) | Err(_) => break,
            }
        }
        let text = String::from_utf8_lossy(&kept);
        let text = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        Ok((status, text, asked))
    }
}

/// Why there was no answer. The text does not contain the address, which the owner knows.
fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "timed out".to_owned() } else { "no answer".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn accounts_take_turns_however_long_others_have_waited() {
        let endpoint = |number: u128, account| DueEndpoint {
            id: EndpointId(uuid::Uuid::from_u128(number)),
            account: AccountId(account),
            is_failing: false,
        };
        // Account 1 has waited longest, with many endpoints; of account 2 one is being served.
        let mut due: Vec<_> = (0..20).map(|number| endpoint(number, 1)).collect();
        due.extend([endpoint(20, 2), endpoint(21, 3), endpoint(22, 3)]);
        let mut active = Active::default();
        active.serving.insert(EndpointId(uuid::Uuid::from_u128(99)), AccountId(2));
        active.take_turn(AccountId(1));
        active.take_turn(AccountId(2));
        let order = active.in_turn(due.clone());
        let accounts: Vec<i64> = order.iter().take(5).map(|due| due.account.0).collect();
        assert_eq!(accounts, [3, 1, 3, 1, 2]);
        assert_eq!(order.len(), due.len());
        active.take_turn(AccountId(3));
        assert_eq!(active.in_turn(due)[0].account, AccountId(1));
    }

    /// DNS rebinding: a name resolves to a public address first, and to private addresses later.
    /// The server must not connect to the private ones.
    #[tokio::test]
    async fn a_name_that_turns_private_reaches_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let lookups = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&lookups);
        let lookup: Lookup = Arc::new(move |_| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                // The first address leads nowhere. After it come all forms of this machine's own
                // address.
                let text: &[&str] = if is_first {
                    &["192.88.99.1"]
                } else {
                    &["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"]
                };
                Ok(text.iter().map(|text| text.parse().unwrap()).collect())
            })
        });
        let resolver = PublicOnly { lookup, is_private_allowed: false };
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_millis(500))
            .dns_resolver(resolver)
            .build()
            .unwrap();
        for _ in 0..5 {
            let url = format!("http://rebinding.example:{port}/");
            assert!(client.post(url).send().await.is_err());
        }
        assert_eq!((reached.load(Ordering::SeqCst), lookups.load(Ordering::SeqCst)), (0, 5));
        // With private addresses allowed the server is reached. This shows that the test can fail.
        let lookup: Lookup =
            Arc::new(|_| Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) }));
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_millis(500))
            .dns_resolver(PublicOnly { lookup, is_private_allowed: true })
            .build()
            .unwrap();
        let _ = client.post(format!("http://rebinding.example:{port}/")).send().await;
        assert_eq!(reached.load(Ordering::SeqCst), 1);
    }

    /// Every notation of an address in a private network, and names that stand for one.
    #[test]
    #[expect(clippy::too_many_lines, reason = "one list")]
    fn no_notation_of_a_private_address_is_accepted() {
        let hosts = [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0x7f.0.0.1",
            "0x7f.1",
            "0177.0.0.1",
            "0177.1",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "127.000.000.001",
            "0",
            "0.0.0.0",
            "0x0",
            "00",
            "10.0.0.1",
            "10.1",
            "0xa000001",
            "167772161",
            "012.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "2886729729",
            "0xac100001",
            "192.168.0.1",
            "192.168.1",
            "3232235521",
            "0xc0a80001",
            "0300.0250.0.1",
            "169.254.169.254",
            "169.254.43518",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "0xa9.0xfe.0xa9.0xfe",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "192.0.0.170",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "4294967295",
            "0xffffffff",
            "168.63.129.16",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::ffff:10.0.0.1]",
            "[::ffff:192.168.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::]",
            "[2002:c0a8:1::]",
            "[2001::1]",
            "[2001:db8::1]",
            "[fc00::1]",
            "[fd00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fe80::a9fe:a9fe]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[3fff::1]",
            "[4000::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "printer.local",
            "db.internal",
            "metadata.google.internal",
            "router.home.arpa",
            "x.localdomain",
            "\u{ff4c}ocalhost",
            "\u{2460}27.0.0.1",
            "127\u{3002}0\u{3002}0\u{3002}1",
            "%31%32%37.0.0.1",
            "%6cocalhost",
            "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        ];
        let mut forms = 0;
        for host in hosts {
            for text in [
                format!("https://{host}/"),
                format!("https://{host}:8443/hook"),
                format!("HTTPS:\\\\{host}\\x"),
            ] {
                assert!(check_url(&text, false).is_err(), "{text}");
                forms += 1;
            }
        }
        for text in [
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https:///x",
            "https://",
            "javascript:alert(1)",
            "data:text/plain,x",
            "//example.com/",
            "example.com",
            "",
            "https://[",
            "https://exa mple.com/",
            "https://example.com:99999/",
            "https://[fe80::1%25eth0]/",
        ] {
            assert!(check_url(text, false).is_err(), "{text}");
            forms += 1;
        }
        assert!(forms >= 200, "{forms}");
        for text in
            ["https://example.com/hook", "https://1.1.1.1/", "https://[2606:4700::1111]:444/x"]
        {
            assert!(check_url(text, false).is_ok(), "{text}");
        }
        assert!(check_url("http://127.0.0.1:9/x", true).is_ok());
    }
}

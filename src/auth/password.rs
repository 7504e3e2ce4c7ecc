//! Passwords: argon2id with 19 MiB, two passes, one lane (OWASP's floor), on a bounded number of
//! threads that give way to everything else.
//!
//! Few wait for these threads. Strangers may take half of the places, and each network of theirs a
//! share of it, so that they keep no user out who is known. Estimates of how easy a new password is
//! to guess take far longer than hashes, so they have a thread and a queue of their own.
//!
//! A password costs the same work whether its user exists or not, so that timing reveals nothing.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand::RngExt as _;
use tokio::sync::oneshot;
use zxcvbn::{Score, zxcvbn};

use crate::store::users::folded;
use domain::address::{CallerNetwork, networks};

/// The longest password, in bytes. argon2 accepts longer ones.
pub const LENGTH_MAX: usize = 1_024;

/// Common passwords, lowercase, one a line: the commonest ones of breaches, and all of those that
/// are as long as a password must be.
const COMMON: &str = include_str!("common_passwords.txt");
static LISTED: LazyLock<HashSet<&str>> = LazyLock::new(|| COMMON.lines().collect());

/// Characters of a password whose guesses are estimated. So many can need far more guesses than are
/// demanded, and the time grows with more than their square: 64 of the worst ones take a second.
const ESTIMATED_MAX: usize = 32;

/// Why a new password is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// A common password, or a name of its user.
    Common,
    /// Put together of what guessers try first.
    Guessable,
}

/// Why a new password is refused, if it is. `own` are names of its user. It takes milliseconds.
#[must_use]
pub fn weakness(password: &str, own: &[String]) -> Option<Weakness> {
    let is_own = |name: &String| folded(name) == folded(password);
    if own.iter().any(is_own) || is_common(password) {
        return Some(Weakness::Common);
    }
    let begin: String = password.chars().take(ESTIMATED_MAX).collect();
    let of_address = own.iter().filter_map(|name| Some(name.split_once('@')?.0));
    let own = own.iter().map(String::as_str).chain(of_address).chain(["polysystems"]);
    let estimate = zxcvbn(&begin, &own.collect::<Vec<_>>());
    // Three of four: more than 100 million guesses.
    (estimate.score() < Score::Three).then_some(Weakness::Guessable)
}

/// Is it a common password, or derived from one: with capitals, with digits and signs at its end, a
/// repetition, or a row of the keyboard or of the alphabet?
fn is_common(password: &str) -> bool {
    let folded = password.to_lowercase();
    let bare = folded.trim_end_matches(|c: char| !c.is_alphabetic());
    let bare = if bare.chars().count() >= 4 { bare } else { &folded };
    let is_listed = |text: &str| LISTED.contains(text);
    is_listed(&folded) || is_listed(bare) || is_repeated(&folded) || is_row(&folded)
}

/// One piece of at most four characters, again and again.
fn is_repeated(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    (1..=4).any(|length| {
        let (first, rest) = characters.split_at(length.min(characters.len()));
        rest.len() >= length * 2
            && rest.iter().zip(first.iter().cycle()).all(|(one, other)| one == other)
    })
}

/// Part of a row of the keyboard or of the alphabet, forwards or backwards.
fn is_row(text: &str) -> bool {
    const ROWS: [&str; 4] = [
        "12345678901234567890",
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
        "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
        "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    ];
    ROWS.iter().any(|row| {
        let backwards: String = row.chars().rev().collect();
        row.contains(text) || backwards.contains(text)
    })
}

/// Random bytes of a salt (RFC 9106, 3.1).
const SALT_LEN: usize = 16;

/// Why a password was neither hashed nor checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// As many wait as may.
    #[error("too many passwords are being checked")]
    Busy,
    /// The hashing itself failed.
    #[error("a password could not be hashed")]
    Broken,
}

/// Who waits for a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A user who has a session or a token, or had a session at the same address; or the operator
    /// of the server.
    Known,
    /// Anybody else, at this address.
    Stranger(IpAddr),
}

impl Asker {
    /// The networks that a stranger counts for.
    fn networks(self) -> impl Iterator<Item = (CallerNetwork, usize)> {
        let address = match self {
            Asker::Known => None,
            Asker::Stranger(address) => Some(address),
        };
        let networks = address.into_iter().flat_map(networks);
        networks.map(|(network, callers)| {
            (network, usize::try_from(callers.get()).unwrap_or(usize::MAX))
        })
    }
}

/// Hashes and checks passwords, on threads of its own that give way to all others.
#[derive(Clone)]
pub struct Passwords {
    hashes: Queue,
    estimates: Queue,
    /// The hash of a random password, checked for users who do not exist.
    nobodys: Arc<str>,
}

type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// The buffer a thread hashes in. It is reused: to map 19 MiB for each hash would block every other
/// page fault of the process while this low-priority thread waits for its turn.
type Memory = Vec<Block>;

/// Jobs that wait for a thread.
#[derive(Clone)]
struct Queue {
    /// Ends the threads when it is dropped.
    jobs: Sender<Job>,
    waiting: Arc<Mutex<Waiting>>,
    /// Most that may wait.
    max: usize,
}

/// Who waits.
#[derive(Default)]
struct Waiting {
    all: usize,
    strangers: usize,
    /// Strangers of each network.
    of: HashMap<CallerNetwork, usize>,
}

impl Waiting {
    /// Counts one more. False, and nothing is counted, if there is no place left for them.
    fn enter(&mut self, asker: Asker, max: usize) -> bool {
        let (for_strangers, each) = (max.div_ceil(2), max.div_ceil(8));
        let has_room = |(network, callers): (CallerNetwork, usize)| {
            let waits = self.of.get(&network).copied().unwrap_or(0);
            waits < each.saturating_mul(callers)
        };
        let is_stranger = asker != Asker::Known;
        if self.all >= max
            || (is_stranger && self.strangers >= for_strangers)
            || !asker.networks().all(has_room)
        {
            return false;
        }
        self.all = self.all.saturating_add(1);
        self.strangers = self.strangers.saturating_add(usize::from(is_stranger));
        for (network, _) in asker.networks() {
            let waits = self.of.entry(network).or_default();
            *waits = waits.saturating_add(1);
        }
        true
    }

    fn leave(&mut self, asker: Asker) {
        self.all = self.all.saturating_sub(1);
        self.strangers = self.strangers.saturating_sub(usize::from(asker != Asker::Known));
        for (network, _) in asker.networks() {
            let Some(waits) = self.of.get_mut(&network) else { continue };
            *waits = waits.saturating_sub(1);
            if *waits == 0 {
                self.of.remove(&network);
            }
        }
    }
}

/// The place of one who waits, until it is dropped.
struct Place {
    of: Arc<Mutex<Waiting>>,
    asker: Asker,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).leave(self.asker);
    }
}

impl Queue {
    fn new(threads: usize, max: usize) -> Result<Self, PasswordError> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name("passwords".into());
            thread.spawn(move || work_off(&queue)).map_err(|_| PasswordError::Broken)?;
        }
        Ok(Queue { jobs, waiting: Arc::default(), max })
    }

    fn enter(&self, asker: Asker) -> Option<Place> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_place = waiting.enter(asker, self.max);
        has_place.then(|| Place { of: Arc::clone(&self.waiting), asker })
    }

    /// Does a job, when its turn has come.
    async fn work<T: Send + 'static>(
        &self,
        asker: Asker,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self.enter(asker).ok_or(PasswordError::Busy)?;
        let (done, outcome) = oneshot::channel();
        let job = move |memory: &mut Memory| {
            drop(place);
            // The caller has gone; the result is dropped.
            let _ = done.send(work(memory));
        };
        self.jobs.send(Box::new(job)).map_err(|_| PasswordError::Broken)?;
        outcome.await.map_err(|_| PasswordError::Broken)
    }
}

/// Gives this thread the lowest priority, so that it runs only on an idle core.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
            set_thread_priority_and_policy, thread_native_id,
        };
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
        if let Err(error) = set {
            tracing::warn!(?error, "passwords are hashed at the same priority as everything else");
        }
    }
}

/// Does one job after the other, as long as there is anybody to give it one.
fn work_off(jobs: &Mutex<Receiver<Job>>) {
    give_way();
    let mut memory = Memory::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // If a job panics, its channel closes, and its caller gets an error.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| job(&mut memory)));
    }
}

/// Fills `out` by the password and the salt.
fn derive(
    argon2: &Argon2<'_>,
    password: &str,
    salt: &[u8],
    out: &mut [u8],
    memory: &mut Memory,
) -> Option<()> {
    let blocks = argon2.params().block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::new());
    }
    let memory = memory.get_mut(..blocks)?;
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, memory).ok()
}

fn hash(password: &str, memory: &mut Memory) -> Option<String> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let salt: [u8; SALT_LEN] = rand::rng().random();
    let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
    derive(&argon2, password, &salt, &mut out, memory)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).ok()?,
        salt: Some(Salt::new(&salt).ok()?),
        hash: Some(Output::new(&out).ok()?),
    };
    Some(hash.to_string())
}

/// `None` if the stored text is not a PHC string.
fn fits(password: &str, stored: &str, memory: &mut Memory) -> Option<bool> {
    let stored = PasswordHash::new(stored).ok()?;
    let algorithm = Algorithm::try_from(stored.algorithm.as_str()).ok()?;
    let version = stored.version.map(Version::try_from).transpose().ok()?.unwrap_or_default();
    let argon2 = Argon2::new(algorithm, version, Params::try_from(&stored).ok()?);
    let (salt, expected) = (stored.salt?, stored.hash?);
    let mut out = vec![0; expected.len()];
    derive(&argon2, password, &salt, &mut out, memory)?;
    Some(verify_slices_are_equal(&out, expected.as_ref()).is_ok())
}

impl Passwords {
    /// At most `hashes_max` at the same time, and `waiting_max` waiting.
    pub fn new(hashes_max: usize, waiting_max: usize) -> Result<Self, PasswordError> {
        Ok(Passwords {
            hashes: Queue::new(hashes_max, waiting_max)?,
            estimates: Queue::new(1, waiting_max)?,
            nobodys: hash("nobody has this password", &mut Memory::new())
                .ok_or(PasswordError::Broken)?
                .into(),
        })
    }

    /// The PHC text to store for a password.
    pub async fn hash(&self, password: String, asker: Asker) -> Result<String, PasswordError> {
        let hashed = self.hashes.work(asker, move |memory| hash(&password, memory));
        hashed.await?.ok_or(PasswordError::Broken)
    }

    /// The same for a new password of somebody with these names, unless it is easy to guess.
    pub async fn hash_new(
        &self,
        password: String,
        own: Vec<String>,
        asker: Asker,
    ) -> Result<Result<String, Weakness>, PasswordError> {
        let estimated = password.clone();
        let estimate = move |_: &mut Memory| weakness(&estimated, &own);
        match self.estimates.work(asker, estimate).await? {
            Some(weakness) => Ok(Err(weakness)),
            None => self.hash(password, asker).await.map(Ok),
        }
    }

    /// Was this PHC text made with other parameters than would be used now?
    #[must_use]
    pub fn is_outdated(stored: &str) -> bool {
        let Ok(stored) = PasswordHash::new(stored) else { return true };
        let params = Params::try_from(&stored);
        stored.algorithm != Algorithm::Argon2id.ident()
            || stored.version != Some(Version::V0x13.into())
            || params.is_ok_and(|params| {
                (params.m_cost(), params.t_cost(), params.p_cost())
                    != (Params::DEFAULT_M_COST, Params::DEFAULT_T_COST, Params::DEFAULT_P_COST)
            })
    }

    /// Is it the password of this PHC string? `None` stands for a user who does not exist: the same
    /// work, then false.
    pub async fn verify(
        &self,
        password: String,
        stored: Option<String>,
        asker: Asker,
    ) -> Result<bool, PasswordError> {
        let nobodys = Arc::clone(&self.nobodys);
        let verify = move |memory: &mut Memory| {
            let against = stored.as_deref().unwrap_or(&nobodys);
            let fits = fits(&password, against, memory).unwrap_or(false);
            fits && stored.is_some()
        };
        self.hashes.work(asker, verify).await
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

    use super::*;

    const KNOWN: Asker = Asker::Known;

    /// The crate's own verifier must agree.
    #[test]
    fn a_hash_is_as_everybody_else_reads_it() {
        let mut memory = Memory::new();
        let own = hash("correct horse", &mut memory).unwrap();
        let theirs = Argon2::default().hash_password(b"correct horse").unwrap().to_string();
        let weaker = Params::new(8 * 1024, 3, 2, Some(16)).unwrap();
        let weaker = Argon2::new(Algorithm::Argon2i, Version::V0x10, weaker);
        let weaker = weaker.hash_password(b"correct horse").unwrap().to_string();
        for stored in [own, theirs, weaker] {
            for (password, expected) in [("correct horse", true), ("correct hors", false)] {
                let agreed = Argon2::default().verify_password(password.as_bytes(), &*stored);
                assert_eq!(agreed.is_ok(), expected, "{stored}");
                assert_eq!(fits(password, &stored, &mut memory), Some(expected), "{stored}");
            }
        }
        assert_eq!(fits("x", "no hash", &mut memory), None);
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new(2, 10).unwrap();
        let stored = passwords.hash("correct horse".into(), KNOWN).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let verify = |password: &str, stored| passwords.verify(password.into(), stored, KNOWN);
        assert!(verify("correct horse", Some(stored.clone())).await.unwrap());
        assert!(!verify("wrong horse", Some(stored)).await.unwrap());
        assert!(!verify("nobody has this password", None).await.unwrap());
    }

    #[test]
    fn what_everybody_tries_first_is_common() {
        for common in [
            "password1234",
            "Password1234!",
            "PASSWORDPASSWORD",
            "123456789012",
            "qwertyuiop[]",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "zyxwvutsrqponm",
            "1qaz2wsx3edc",
            "iloveyou2024!",
            "correcthorsebatterystaple",
            "letmeinletmein",
            "administrator1",
            "Polysystems2024!",
            // From further down the list.
            "scoobydoo2001",
            "Swordfish-2024",
        ] {
            assert_eq!(weakness(common, &[]), Some(Weakness::Common), "{common}");
        }
        for rare in [
            "SecurePassword123!",
            "Another password 1",
            "correct horse battery",
            "A password of an operator",
            "tr0ub4dor&3x!",
            "x9#kQ2!mW7zp",
            "żółta łódka płynie",
        ] {
            assert_eq!(weakness(rare, &[]), None, "{rare}");
        }
    }

    /// ASVS 5, 6.2.4, asks for 3,000.
    #[test]
    fn the_list_has_thousands_of_passwords() {
        assert!(LISTED.len() >= 6_000, "{}", LISTED.len());
        assert!(COMMON.lines().all(|line| line == line.to_lowercase().trim() && line.len() >= 3));
        assert!(LISTED.iter().all(|common| weakness(common, &[]).is_some()));
    }

    #[test]
    fn what_is_put_together_of_common_pieces_is_easy_to_guess() {
        for guessable in
            ["P@ssw0rd2024", "johnsmith1985", "Welcome123456", "drowssap654321", "19901990-1990"]
        {
            assert!(weakness(guessable, &[]).is_some(), "{guessable}");
        }
        // Names of one's own are the first that are tried.
        let own = ["zbigniewowski@example.com".to_owned(), "Kwasniewskaya".to_owned()];
        for own_name in ["Zbigniewowski1!", "kwasniewskaya99", "ZBIGNIEWOWSKI@example.com"] {
            assert!(weakness(own_name, &own).is_some(), "{own_name}");
        }
        assert_eq!(weakness("Zbigniewowski1!", &[]), None);
    }

    /// Passwords wait for one another, so none may take long.
    #[test]
    fn the_estimate_of_a_long_password_is_bounded() {
        let signs = "4@8({[<3691!|7|0$5+7%2zq";
        for piece in [signs, "password", "P4$$w0rd!", "1qaz2wsx", "abcdefgh1990", "ß→é"] {
            let long: String = piece.chars().cycle().take(LENGTH_MAX / piece.len()).collect();
            let scattered: String = piece
                .chars()
                .cycle()
                .zip("the quick brown fox jumps".chars().cycle())
                .flat_map(|(one, other)| [one, other])
                .take(LENGTH_MAX / 4)
                .collect();
            for text in [long, scattered] {
                let begun = std::time::Instant::now();
                let _ = weakness(&text, &[]);
                // It is a tenth of this; a busy machine needs longer.
                let took = begun.elapsed();
                assert!(took < std::time::Duration::from_secs(3), "{piece}: {took:?}");
            }
        }
    }

    #[test]
    fn a_hash_of_other_parameters_is_outdated() {
        let today = hash("x", &mut Memory::new()).unwrap();
        assert!(!Passwords::is_outdated(&today));
        let weaker = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(Params::DEFAULT_M_COST / 2, 1, 1, None).unwrap(),
        );
        let weaker = weaker.hash_password(b"x").unwrap().to_string();
        assert!(Passwords::is_outdated(&weaker));
        assert!(Passwords::is_outdated(&today.replace("argon2id", "argon2i")));
        assert!(Passwords::is_outdated("no hash"));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let passwords = Passwords::new(1, 0).unwrap();
        assert_eq!(passwords.hash("x".into(), KNOWN).await, Err(PasswordError::Busy));
        assert_eq!(passwords.hashes.waiting.lock().unwrap().all, 0);
    }

    /// The job that a thread is at, until the sender is dropped.
    async fn occupied(queue: &Queue) -> std::sync::mpsc::Sender<()> {
        let (end, ended) = channel::<()>();
        let (began, has_begun) = oneshot::channel();
        let queue = queue.clone();
        let job = move |_: &mut Memory| {
            let _ = began.send(());
            let _ = ended.recv();
        };
        tokio::spawn(async move { queue.work(KNOWN, job).await });
        has_begun.await.unwrap();
        end
    }

    #[tokio::test]
    async fn strangers_keep_nobody_out_who_is_known() {
        let passwords = Passwords::new(1, 16).unwrap();
        let end = occupied(&passwords.hashes).await;
        let mut waiting = Vec::new();
        let mut waits = |asker| {
            let mut job = Box::pin(passwords.hash("x".into(), asker));
            let is_waiting = futures_util::FutureExt::now_or_never(&mut job).is_none();
            if is_waiting {
                waiting.push(job);
            }
            is_waiting
        };
        let stranger = |text: &str| Asker::Stranger(text.parse().unwrap());
        // One address has an eighth of the places, a /48 eight times as much at most.
        assert_eq!((0..16).filter(|_| waits(stranger("192.0.2.1"))).count(), 2);
        let of_48 =
            (0..100).filter(|number| waits(stranger(&format!("2001:db8:0:{number:x}::1")))).count();
        assert_eq!(of_48, 6, "half of the places are taken");
        assert!(!waits(stranger("198.51.100.1")));
        assert_eq!((0..16).filter(|_| waits(KNOWN)).count(), 8);
        drop(end);
        let hashed = futures_util::future::join_all(waiting).await;
        assert_eq!(hashed.iter().filter(|hash| hash.is_ok()).count(), 16);
        let left = passwords.hashes.waiting.lock().unwrap();
        assert_eq!((left.all, left.strangers, left.of.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn an_estimate_keeps_no_hash_waiting() {
        let passwords = Passwords::new(1, 16).unwrap();
        let _end = occupied(&passwords.estimates).await;
        let mut registering = Box::pin(passwords.hash_new("x".into(), Vec::new(), KNOWN));
        assert!(futures_util::FutureExt::now_or_never(&mut registering).is_none());
        passwords.hash("x".into(), KNOWN).await.unwrap();
    }
}

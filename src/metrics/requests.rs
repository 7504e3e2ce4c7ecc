//! How long requests took, by route, method and status. Each observation is two atomic additions;
//! only the first one of a route, a method and a status makes its histogram.

use std::sync::OnceLock;
use std::time::Duration;

use super::Histogram;
use domain::route_group::RouteGroup;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// In ascending order. All others are told as `other`, as are all other methods.
const STATUSES: [u16; 31] = [
    200, 201, 202, 204, 206, 301, 304, 307, 308, 400, 401, 402, 403, 404, 405, 408, 409, 410, 412,
    413, 415, 422, 424, 428, 429, 431, 500, 502, 503, 504, 529,
];
const OTHER: &str = "other";

type Cell = OnceLock<Box<Histogram>>;
/// By method and status.
type ByMethod = [[Cell; STATUSES.len() + 1]; METHODS.len() + 1];

/// The route of a request: its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteIndex(usize);

/// The durations of requests.
#[derive(Debug)]
pub struct Requests {
    routes: Vec<(String, OnceLock<Box<ByMethod>>)>,
}

impl Requests {
    /// For these routes, beside those of paid calls and for requests that have none.
    pub fn new<'r>(paths: impl Iterator<Item = &'r str>) -> Self {
        let base = |group: RouteGroup| group.paths().first().copied().unwrap_or_default();
        let paid = RouteGroup::ALL.into_iter().map(|group| format!("{}/*", base(group)));
        let routes = paid.chain([OTHER.to_owned()]).chain(paths.map(str::to_owned));
        Requests { routes: routes.map(|path| (path, OnceLock::new())).collect() }
    }

    /// The index of the route that was given as the `number`th one.
    #[must_use]
    pub fn index(number: usize) -> RouteIndex {
        RouteIndex(RouteGroup::ALL.len() + 1 + number)
    }

    /// The index of the paid calls of a group.
    #[must_use]
    pub fn of_group(group: RouteGroup) -> Option<RouteIndex> {
        RouteGroup::ALL.iter().position(|other| *other == group).map(RouteIndex)
    }

    /// Counts an answered request. Without a route it is one that there is no route for.
    pub fn count(&self, route: Option<RouteIndex>, method: &str, status: u16, took: Duration) {
        let RouteIndex(route) = route.unwrap_or(RouteIndex(RouteGroup::ALL.len()));
        let Some((_, methods)) = self.routes.get(route) else { return };
        let methods = methods.get_or_init(Box::default);
        let method = METHODS.iter().position(|other| *other == method).unwrap_or(METHODS.len());
        let status = STATUSES.binary_search(&status).unwrap_or(STATUSES.len());
        if let Some(cell) = methods.get(method).and_then(|statuses| statuses.get(status)) {
            cell.get_or_init(|| Box::new(Histogram::of_durations())).count_duration(took);
        }
    }

    /// How many requests were answered with 500 or above.
    #[must_use]
    pub fn server_errors(&self) -> u64 {
        let first = STATUSES.partition_point(|status| *status < 500);
        let methods = self.routes.iter().filter_map(|(_, methods)| methods.get());
        let cells = methods.flat_map(|methods| methods.iter()).flat_map(|statuses| {
            // The last cell has other statuses.
            statuses.iter().take(STATUSES.len()).skip(first)
        });
        let counted = cells.filter_map(|cell| cell.get()).map(|histogram| histogram.total().0);
        counted.fold(0, u64::saturating_add)
    }

    /// Every histogram that has counted, with the labels `route`, `method` and `status`.
    pub fn each(&self, mut show: impl FnMut(&str, &Histogram)) {
        for (path, methods) in &self.routes {
            let Some(methods) = methods.get() else { continue };
            for (index, statuses) in methods.iter().enumerate() {
                let method = METHODS.get(index).copied().unwrap_or(OTHER);
                for (index, cell) in statuses.iter().enumerate() {
                    let Some(histogram) = cell.get() else { continue };
                    let status = STATUSES.get(index);
                    let status = status.map_or(OTHER.to_owned(), ToString::to_string);
                    let labels =
                        format!("route=\"{path}\",method=\"{method}\",status=\"{status}\"");
                    show(&labels, histogram);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_where_it_belongs() {
        assert!(STATUSES.is_sorted());
        let requests = Requests::new(["/a", "/b/{id}"].into_iter());
        let took = Duration::from_millis(1);
        requests.count(Some(Requests::index(1)), "GET", 200, took);
        requests.count(Some(Requests::index(1)), "GET", 200, took);
        requests.count(Requests::of_group(RouteGroup::V1), "POST", 429, took);
        requests.count(None, "BREW", 418, took);
        requests.count(Some(Requests::index(9)), "GET", 200, took);
        let mut seen = Vec::new();
        requests.each(|labels, histogram| {
            let mut text = String::new();
            histogram.write(&mut text, "x", "");
            let count = text.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
            seen.push((labels.to_owned(), count));
        });
        let expected = [
            (r#"route="/v1/*",method="POST",status="429""#, "1"),
            (r#"route="other",method="other",status="other""#, "1"),
            (r#"route="/b/{id}",method="GET",status="200""#, "2"),
        ];
        let expected = expected.map(|(labels, count)| (labels.to_owned(), count.to_owned()));
        assert_eq!(seen, expected);
    }
}

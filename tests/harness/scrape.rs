//! One reading of the metrics endpoint.

/// Name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// Samples in the order of the text.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: Vec<Sample>,
}

impl Scrape {
    /// Reads the Prometheus text format 0.0.4; panics on a line that is not of it.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "no newline at the end of {text:?}");
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")))
            .collect();
        Self { text: text.to_owned(), samples }
    }

    /// The value of a series; 0 while the series is absent. Only the labels that are asked for have to agree.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|(known, has, _)| {
                known == name
                    && labels.iter().all(|(key, value)| {
                        has.iter().any(|(name, text)| name == key && text == value)
                    })
            })
            .fold(0.0, |sum, (_, _, value)| sum + value)
    }

    /// Every label set of a metric.
    pub(crate) fn labels(&self, name: &str) -> Vec<&[(String, String)]> {
        self.samples
            .iter()
            .filter(|(known, _, _)| known == name)
            .map(|(_, labels, _)| labels.as_slice())
            .collect()
    }

    /// Name and value of every series with its labels written out, for comparing two scrapes.
    pub(crate) fn series(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        self.samples.iter().map(|(name, labels, value)| (format!("{name} {labels:?}"), *value))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some((series.to_owned(), Vec::new(), value));
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        labels.push((key.to_owned(), text));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some((name.to_owned(), labels, value))
}

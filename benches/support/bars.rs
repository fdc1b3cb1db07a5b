//! The bars that the gateway must reach compared with its peers, and its goals.

use super::results::{Figure, Results, median, number};

/// A language of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// The text for this language.
    pub fn of<T>(self, english: T, chinese: T) -> T {
        match self {
            Self::English => english,
            Self::Chinese => chinese,
        }
    }
}

/// One bar, with the gateway's figure.
pub struct Bar {
    /// In English and in Chinese.
    pub what: [&'static str; 2],
    pub value: Option<f64>,
    pub bar: f64,
    pub goal: f64,
    at_least: bool,
}

impl Bar {
    /// False if it was not measured.
    pub fn is_reached(&self) -> bool {
        self.value.is_some_and(|value| self.reaches(value, self.bar))
    }

    pub fn reaches_goal(&self) -> bool {
        self.value.is_some_and(|value| self.reaches(value, self.goal))
    }

    fn reaches(&self, value: f64, mark: f64) -> bool {
        if self.at_least { value >= mark } else { value <= mark }
    }

    /// `≤ 0.80`
    pub fn mark(&self, mark: f64) -> String {
        format!("{} {mark}", if self.at_least { "≥" } else { "≤" })
    }
}

/// Whether each bar is reached, those that were not measured included.
pub fn are_reached(bars: &[Bar]) -> bool {
    bars.iter().all(Bar::is_reached)
}

/// Every bar, for the peer named `gateway`.
pub fn all(results: &Results) -> Vec<Bar> {
    const US: &str = "gateway";
    /// The same binary with `cos.via = "api"`.
    const API: &str = "gateway-api";
    const CROWDED: &str = "idle-10000-slow-2000";
    let against = |scenario: &str, peer: &str, figure| {
        results.scenario(scenario)?.ratio(US, peer, figure).filter(|ratio| ratio.is_finite())
    };
    let by_api = |scenario: &str, figure| results.scenario(scenario)?.ratio(API, US, figure);
    let at_most = |what, value, bar, goal| Bar { what, value, bar, goal, at_least: false };
    let at_least = |what, value, bar, goal| Bar { what, value, bar, goal, at_least: true };
    let memory = |scenario: &str| results.scenario(scenario)?.rss_per_upload(US);
    let peak = |scenario: &str| Some(results.scenario(scenario)?.peer(US)?.median(Figure::PeakRss));
    vec![
        at_most(
            [
                "HTTPS to COS, 4 × 512 MiB, CPU/GiB vs nginx",
                "HTTPS 到 COS，4 × 512 MiB，每 GiB 的 CPU，与 nginx 之比",
            ],
            against("https-large", "nginx", Figure::CpuPerGib),
            0.60,
            0.45,
        ),
        at_least(
            [
                "HTTPS to COS, 64 KiB × 32, uploads/s vs nginx",
                "HTTPS 到 COS，64 KiB × 32，每秒上传数，与 nginx 之比",
            ],
            against("https-small", "nginx", Figure::UploadsPerSecond),
            1.0,
            1.2,
        ),
        at_least(
            [
                "HTTPS to COS, 64 KiB × 32, uploads/s vs the Go relay",
                "HTTPS 到 COS，64 KiB × 32，每秒上传数，与 Go 转发程序之比",
            ],
            against("https-small", "go", Figure::UploadsPerSecond),
            2.0,
            3.0,
        ),
        at_most(
            [
                "HTTPS to COS, 64 KiB × 32, p99 vs nginx",
                "HTTPS 到 COS，64 KiB × 32，p99，与 nginx 之比",
            ],
            against("https-small", "nginx", Figure::P99),
            1.8,
            1.2,
        ),
        at_least(
            [
                "HTTP to COS, 64 KiB × 32, uploads/s vs nginx",
                "HTTP 到 COS，64 KiB × 32，每秒上传数，与 nginx 之比",
            ],
            against("http-small", "nginx", Figure::UploadsPerSecond),
            0.55,
            0.7,
        ),
        at_least(
            [
                "HTTP to COS, 64 KiB × 32, uploads/s vs the Node relay",
                "HTTP 到 COS，64 KiB × 32，每秒上传数，与 Node 转发程序之比",
            ],
            against("http-small", "node", Figure::UploadsPerSecond),
            5.0,
            7.0,
        ),
        at_least(
            [
                "HTTP to COS, 64 KiB × 32, uploads/s vs the Go relay",
                "HTTP 到 COS，64 KiB × 32，每秒上传数，与 Go 转发程序之比",
            ],
            against("http-small", "go", Figure::UploadsPerSecond),
            1.8,
            2.5,
        ),
        at_most(
            [
                "HTTP to COS, 4 × 512 MiB, CPU/GiB vs nginx 256k",
                "HTTP 到 COS，4 × 512 MiB，每 GiB 的 CPU，与 nginx（256k 缓冲）之比",
            ],
            against("http-large", "nginx", Figure::CpuPerGib),
            0.85,
            0.6,
        ),
        at_most(
            [
                "HTTP to COS, 4 × 512 MiB, CPU/GiB vs nginx default",
                "HTTP 到 COS，4 × 512 MiB，每 GiB 的 CPU，与 nginx（默认配置）之比",
            ],
            against("http-large", "nginx-default", Figure::CpuPerGib),
            0.50,
            0.33,
        ),
        at_most(
            [
                "HTTP to COS, 4 × 512 MiB, CPU/GiB vs the Node relay",
                "HTTP 到 COS，4 × 512 MiB，每 GiB 的 CPU，与 Node 转发程序之比",
            ],
            against("http-large", "node", Figure::CpuPerGib),
            0.50,
            0.30,
        ),
        at_most(
            [
                "COS's API over HTTPS, 4 × 512 MiB, CPU/GiB vs forms",
                "经 HTTPS 用 COS 的 API，4 × 512 MiB，每 GiB 的 CPU，与表单之比",
            ],
            by_api("https-api-large", Figure::CpuPerGib),
            1.15,
            1.0,
        ),
        at_least(
            [
                "COS's API over HTTPS, 64 KiB × 32, uploads/s vs forms",
                "经 HTTPS 用 COS 的 API，64 KiB × 32，每秒上传数，与表单之比",
            ],
            by_api("https-api-small", Figure::UploadsPerSecond),
            0.9,
            1.0,
        ),
        at_most(
            [
                "COS's API over HTTP, 4 × 512 MiB, CPU/GiB vs forms",
                "经 HTTP 用 COS 的 API，4 × 512 MiB，每 GiB 的 CPU，与表单之比",
            ],
            by_api("http-api-large", Figure::CpuPerGib),
            1.15,
            1.0,
        ),
        at_least(
            [
                "COS's API over HTTP, 64 KiB × 32, uploads/s vs forms",
                "经 HTTP 用 COS 的 API，64 KiB × 32，每秒上传数，与表单之比",
            ],
            by_api("http-api-small", Figure::UploadsPerSecond),
            0.9,
            1.0,
        ),
        at_most(
            [
                "added p50 over direct, 64 KiB, 1 connection, links in advance, vs what nginx adds",
                "相比直传增加的 p50，64 KiB，1 个连接，提前申请链接，与 nginx 所增加的之比",
            ],
            added_vs_nginx(results),
            1.5,
            1.0,
        ),
        at_most(
            [
                "added p50 over direct, 64 KiB, 1 connection, links in advance, WeChat 60 ms away (ms)",
                "相比直传增加的 p50，64 KiB，1 个连接，提前申请链接，微信响应延迟 60 ms（ms）",
            ],
            added_p50(results),
            1.0,
            0.3,
        ),
        at_most(
            [
                "RSS per upload in flight, 200 × 8 MiB, replay_window=0 (MiB)",
                "每个进行中的上传占用的 RSS，200 × 8 MiB，replay_window=0（MiB）",
            ],
            memory("memory-200-window-0"),
            0.22,
            0.15,
        ),
        at_most(
            [
                "RSS per upload in flight, 200 × 8 MiB, default window (MiB)",
                "每个进行中的上传占用的 RSS，200 × 8 MiB，默认窗口（MiB）",
            ],
            memory("memory-200"),
            0.75,
            0.50,
        ),
        at_most(
            [
                "2,000 slow uploads at once, replay_window=0: peak RSS (MiB)",
                "2,000 个慢速上传同时进行，replay_window=0：RSS 峰值（MiB）",
            ],
            peak("slow-2000-window-0"),
            500.0,
            250.0,
        ),
        at_most(
            [
                "10,000 idle connections and 2,000 slow uploads: peak RSS (MiB)",
                "10,000 个空闲连接和 2,000 个慢速上传：RSS 峰值（MiB）",
            ],
            peak(CROWDED),
            600.0,
            300.0,
        ),
        at_most(
            [
                "10,000 idle connections and 2,000 slow uploads: errors",
                "10,000 个空闲连接和 2,000 个慢速上传：错误数",
            ],
            results.scenario(CROWDED).and_then(|crowded| Some(crowded.peer(US)?.errors() as f64)),
            0.0,
            0.0,
        ),
        at_most(
            [
                "adversarial bodies, CPU/GiB vs random bytes",
                "恶意构造的请求体，每 GiB 的 CPU，与随机字节之比",
            ],
            adversarial(results),
            1.2,
            1.05,
        ),
        at_most(
            [
                "uploads of the gateway that failed, in every scenario",
                "全部场景中网关上传失败的次数",
            ],
            errors(results),
            0.0,
            0.0,
        ),
    ]
}

/// The median of what the gateway adds to each round's p50 of uploads sent to COS directly, in milliseconds.
fn added_p50(results: &Results) -> Option<f64> {
    let scenario = results.scenario("latency-wechat-60ms")?;
    let (ours, direct) = (scenario.peer("gateway")?, scenario.peer("direct")?);
    let pairs = ours.rounds.iter().zip(&direct.rounds);
    Some(median(pairs.map(|(ours, direct)| ours.p50_ms - direct.p50_ms)))
}

/// The median of the rounds' ratios of what the gateway adds to p50 to what nginx adds. A round in which nginx added
/// nothing cannot be compared: there the gateway is taken to have added infinitely more.
fn added_vs_nginx(results: &Results) -> Option<f64> {
    let scenario = results.scenario("latency-warm")?;
    let [ours, nginx, direct] = ["gateway", "nginx", "direct"].map(|peer| scenario.peer(peer));
    let (ours, nginx, direct) = (ours?, nginx?, direct?);
    let rounds = ours.rounds.iter().zip(&nginx.rounds).zip(&direct.rounds);
    let ratio = median(rounds.map(|((ours, nginx), direct)| {
        let theirs = nginx.p50_ms - direct.p50_ms;
        if theirs > 0.0 { (ours.p50_ms - direct.p50_ms) / theirs } else { f64::INFINITY }
    }));
    ratio.is_finite().then_some(ratio)
}

/// The highest ratio of the adversarial bodies, each the median over its rounds.
fn adversarial(results: &Results) -> Option<f64> {
    let random = &results.scenario("bodies-random")?.peer("gateway")?.rounds;
    let worst = ["bodies-returns", "bodies-dashes", "bodies-look-alike"].map(|name| {
        let rounds = &results.scenario(name)?.peer("gateway")?.rounds;
        let cpu = Figure::CpuPerGib;
        let pairs = rounds.iter().zip(random);
        Some(median(pairs.map(|(hostile, random)| hostile.figure(cpu) / random.figure(cpu))))
    });
    worst.into_iter().try_fold(0.0, |worst: f64, value| Some(worst.max(value?)))
}

fn errors(results: &Results) -> Option<f64> {
    let ours = results.scenarios.iter().filter_map(|scenario| scenario.peer("gateway"));
    let errors: Vec<u64> = ours.map(super::results::Figures::errors).collect();
    (!errors.is_empty()).then(|| errors.iter().sum::<u64>() as f64)
}

/// A Markdown table with the columns: what, measured, bar, goal.
pub fn table(bars: &[Bar], language: Language) -> String {
    let head = language.of("| | measured | bar | goal |", "| | 实测 | 底线 | 目标 |");
    let mut table = format!("{head}\n|---|---:|---:|---:|\n");
    for bar in bars {
        let verdict = match bar.value {
            None => language.of("not measured", "未测").to_owned(),
            Some(value) if bar.reaches_goal() => format!("**{}**", number(value)),
            Some(value) if bar.is_reached() => number(value),
            Some(value) => format!("{} ✗", number(value)),
        };
        let (mark, goal) = (bar.mark(bar.bar), bar.mark(bar.goal));
        let what = language.of(bar.what[0], bar.what[1]);
        table.push_str(&format!("| {what} | {verdict} | {mark} | {goal} |\n"));
    }
    table
}

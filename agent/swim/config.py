"""The knobs of SWIM and Lifeguard, with presets."""

import msgspec


class SwimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field: what it means, the formula it stands in, what is traded. Defaults are `lan()`.

    Raises ValueError when fields contradict each other.
    """

    # One member is probed in every interval, each within 2n - 1 intervals (SWIM §4.3). Times (LHM + 1) when this
    # agent is unwell. Shorter: deaths are seen sooner; longer: fewer datagrams (about 4 per interval and member) and
    # less CPU.
    probe_interval_ms: int = 500

    # Who was heard over its link within the last interval isn't pinged: that proves as much as an Ack would, and who
    # has fallen silent gets its turn at once instead. Yet every so many intervals somebody is, so that states go round
    # and UDP is tried. 1: as in the paper, a Ping in each interval; more: less traffic and CPU, slower repair.
    ping_heard_every: int = 8

    # A probe that nobody waits for may begin this much late, so that it needs no wake-up of its own: where frames come
    # all the time, it goes with one. Above a heartbeat's interval; longer: deaths are seen that much later.
    lateness_ms: int = 200

    # How long to wait for the Ack to a direct Ping before helpers are asked. Above the slowest honest round trip
    # including a busy receiver; the rest of the interval is left for the helpers. Shorter: more time for them, more
    # needless asks.
    probe_timeout_ms: int = 200

    # Helpers asked after a silent direct Ping: k in SWIM §3.1. More: fewer false suspicions under loss; fewer: less
    # traffic.
    indirect_probes: int = 3

    # A helper says Nack after this percentage of the probe timeout (Lifeguard §IV.A), so that silence means that the
    # *asker* can't hear. Must leave the Nack time to travel within the asker's interval.
    nack_after_percent: int = 80

    # The top of the Local Health Multiplier (Lifeguard §IV.A, S). Timeouts grow to (max + 1) times. Higher: a sick
    # agent accuses less; lower: it finds real deaths sooner.
    awareness_max_score: int = 8

    # α: shortest suspicion = α · max(1, log10 n) · probe interval (Lifeguard §IV.B). Higher: more time to refute;
    # lower: deaths are seen sooner.
    suspicion_alpha: float = 4.0

    # β: longest suspicion = β · shortest (Lifeguard §IV.B). Higher: a cut-off agent keeps others alive for longer,
    # but so does a pair of survivors with nobody left to confirm.
    suspicion_beta: float = 6.0

    # K: independent confirmations that bring the suspicion down to its shortest (Lifeguard §IV.B), at most as many as
    # there are others who could confirm. Higher: a few bad agents can't hurry a death; lower: faster.
    suspicion_confirmations: int = 2

    # λ: one update is sent λ · ceil(log10(n + 1)) times by each member (SWIM §4.1). Higher: certain spread; lower: less
    # traffic after a change.
    retransmit_multiplier: int = 4

    # While there is news, and only then, it is also sent by itself this often. Shorter: news spreads faster.
    gossip_interval_ms: int = 200

    # How many members each such round goes to. More: faster; fewer: less traffic while there is news.
    gossip_fanout: int = 3

    # How many states that are no news fill up each message, in turn, so that what gossip missed and what a restarted
    # agent never heard is repaired: all n are told within n / sync_updates messages. More: faster repair; fewer: less
    # idle traffic.
    sync_updates: int = 1

    # One dead or left member is pinged this often, so that the two sides of a healed partition find each other again.
    # Shorter: they meet sooner; longer: less traffic towards hosts that are gone.
    revive_interval_ms: int = 5000

    # A frame on a mutual-TLS link proves the member alive for this long, whatever UDP says. Longer than the quietest
    # link's frame interval; it delays the sight of a real death by at most this much.
    link_heard_window_ms: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout_ms < self.probe_interval_ms:
            raise ValueError(
                f"probe_timeout_ms is {self.probe_timeout_ms}; it must be above 0 and "
                f"below probe_interval_ms ({self.probe_interval_ms})"
            )
        if not 0 < self.nack_after_percent <= 100:
            raise ValueError(f"nack_after_percent is {self.nack_after_percent}; it must be 1 to 100")
        if self.suspicion_alpha <= 0 or self.suspicion_beta < 1:
            raise ValueError("suspicion_alpha must be above 0 and suspicion_beta at least 1")
        for name in (
            "gossip_interval_ms",
            "revive_interval_ms",
            "retransmit_multiplier",
            "gossip_fanout",
            "ping_heard_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in (
            "indirect_probes",
            "awareness_max_score",
            "suspicion_confirmations",
            "sync_updates",
            "link_heard_window_ms",
            "lateness_ms",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    @classmethod
    def lan(cls) -> "SwimConfig":
        """Hosts on one network, round trips of a few milliseconds: a death is seen in 2.5 to 5.5 s."""
        return cls()

    @classmethod
    def wan(cls) -> "SwimConfig":
        """Hosts across sites, round trips up to 400 ms: a death is seen in 12 to 20 s."""
        return cls(
            probe_interval_ms=2000,
            lateness_ms=700,
            probe_timeout_ms=900,
            suspicion_alpha=5.0,
            gossip_interval_ms=500,
            gossip_fanout=4,
            revive_interval_ms=20_000,
            link_heard_window_ms=5000,
        )

    @classmethod
    def local(cls) -> "SwimConfig":
        """Agents on one machine (tests, demonstrations): a death is seen in about a second."""
        return cls(
            probe_interval_ms=200,
            lateness_ms=70,
            probe_timeout_ms=80,
            suspicion_alpha=3.0,
            gossip_interval_ms=50,
            revive_interval_ms=1000,
            link_heard_window_ms=500,
        )

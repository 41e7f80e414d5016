"""Reference for Horae's learning room: point-in-time features, candidates, CTR training, send windows, campaign response.

Everything at instant tau is computed from events with t < tau. Dense users × items arrays keep it readable; the port
keeps the same formulas on sparse (user, item) rows. Times are epoch seconds (UTC), half-lives are days.

    events  : u, i, t, q (quantity ≤ 20), promo (bought at a discount), one row per (basket, item), sorted by t
    trips   : u, t  one row per shopping trip (baskets of one household < 1 h apart are one trip), sorted by t

Streaming state each feature needs is written beside it:
  [S]  decayed counter (S, t0)     [N] plain count     [F]/[L] first / last instant     [P] instant of the previous event too
  [M]  plain running sums (Σ log gap, Σ log² gap)      [C] trip counter of the user stored with [F]/[L]
  [B]  periodic batch (collaborative filters, item curves, matured labels): refitted at training, stored in the artifact
  [K]  known in advance (calendar)
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr

DAY = 86_400.0
HALF_LIVES = (1, 7, 14, 30, 45, 120, 240)
NEVER = np.nan


@dataclass(frozen=True)
class Events:
    u: np.ndarray
    i: np.ndarray
    t: np.ndarray
    q: np.ndarray
    promo: np.ndarray
    trip: np.ndarray            # id of the shopping trip
    category: np.ndarray        # item -> category code
    users: int
    items: int

    def before(self, tau: float) -> slice:
        return slice(0, int(np.searchsorted(self.t, tau, side="left")))  # strict <


@dataclass(frozen=True)
class Trips:
    u: np.ndarray
    t: np.ndarray

    def sorted_key(self) -> np.ndarray:
        return np.sort(self.u * 1e10 + self.t)

    def count_before(self, u: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Trips of user u that started before t (vectorised); in a stream: the user's trip counter at that moment."""
        key = self.sorted_key()
        return np.searchsorted(key, u * 1e10 + t, side="left") - np.searchsorted(key, u * 1e10, side="left")


def decayed(key: np.ndarray, age_days: np.ndarray, h: float, size: int, weight=1.0) -> np.ndarray:
    """S_h(key, tau) = Σ w 2^(−age/h)."""
    return np.bincount(key, weight * np.exp2(-age_days / h), minlength=size)


# ------------------------------------------------------------------------------------------------ state at tau
class State:
    """All counters as of tau (users × items float32). Active users: a trip in the last 120 days."""

    def __init__(self, ev: Events, trips: Trips, tau: float):
        U, I = ev.users, ev.items
        now = ev.before(tau)
        u, i, t, q = ev.u[now], ev.i[now], ev.t[now], ev.q[now]
        key, age = u * I + i, (tau - t) / DAY
        grid = lambda flat: flat.reshape(U, I).astype(np.float32)
        self.tau, self.ev, self.trips, self.now = tau, ev, trips, now
        self.s = {h: grid(decayed(key, age, h, U * I)) for h in HALF_LIVES}                   # [S]
        self.count = grid(np.bincount(key, minlength=U * I))                                  # [N]
        self.q45 = grid(decayed(key, age, 45, U * I, q))                                      # [S] weighted by quantity
        self.last, self.first, self.last_q = (np.full(U * I, NEVER) for _ in range(3))        # [L] [F] [L]
        self.last[key], self.first[key[::-1]], self.last_q[key] = t, t[::-1], q
        self.last, self.first, self.last_q = (a.reshape(U, I) for a in (self.last, self.first, self.last_q))
        self._gaps(key, t, U * I)
        m = int(np.searchsorted(trips.t, tau, side="left"))
        tu, tt = trips.u[:m], trips.t[:m]
        self.trip = {h: decayed(tu, (tau - tt) / DAY, h, U) for h in (1, 7, 14, 30, 45, 120)}  # [S] per user
        self.trips_n = np.bincount(tu, minlength=U)                                            # [N]
        self.trip_last, self.trip_first = np.full(U, NEVER), np.full(U, NEVER)
        self.trip_last[tu], self.trip_first[tu[::-1]] = tt, tt[::-1]
        self.active = (tau - self.trip_last) <= 120 * DAY
        self.pop = {h: decayed(i, age, h, I) for h in (3, 7, 30, 120)}                         # [S] per item
        first_purchase = np.zeros(len(t), bool)
        first_purchase[np.unique(key, return_index=True)[1]] = True                           # flag known when the event arrives
        mass = np.maximum(decayed(u, age, 45, U), .1)
        self.new_share_user = decayed(u, age, 45, U, first_purchase) / mass                    # [S] per user
        self.promo_share_user = decayed(u, age, 45, U, ev.promo[now]) / mass                   # [S] per user
        self.new_share_item = decayed(i, age, 30, I, first_purchase) / np.maximum(self.pop[30], .1)

    def _gaps(self, key, t, size):
        """Gaps between purchases of the same item by the same user, those under half a day ignored."""
        o = np.lexsort((t, key)); k, t = key[o], t[o]
        keep = np.r_[True, (k[1:] != k[:-1]) | (t[1:] - t[:-1] > .5 * DAY)]
        k, t = k[keep], t[keep]
        same = np.r_[False, k[1:] == k[:-1]]
        gap = np.where(same, np.r_[0., np.diff(t)] / DAY, np.nan)
        log = np.where(same, np.log(np.maximum(gap, .5)), 0.)
        U, I = self.ev.users, self.ev.items
        n, a, b = (np.bincount(k, w, minlength=size) for w in (same.astype(float), log, log * log))   # [N] [M] [M]
        self.gap_n = n.reshape(U, I)
        mean = np.where(n > 0, a / np.maximum(n, 1), np.nan)
        self.log_gap = mean.reshape(U, I)
        self.log_gap_sd = np.where(n > 1, np.sqrt(np.maximum(b / np.maximum(n, 1) - mean ** 2, 0)), np.nan).reshape(U, I)
        last_gap = np.full(size, np.nan); last_gap[k] = gap                                    # [P]
        self.last_gap = last_gap.reshape(U, I)
        item, g = k[same] % I, log[same]                                                       # population gap curve [M] per item
        c, s1, s2 = np.bincount(item, minlength=I), np.bincount(item, g, minlength=I), np.bincount(item, g * g, minlength=I)
        m0 = s1.sum() / max(c.sum(), 1)
        self.item_log_gap = (s1 + 20 * m0) / (c + 20)
        self.item_log_gap_sd = np.sqrt(np.maximum((s2 + 20 * (1 + m0 ** 2)) / (c + 20) - self.item_log_gap ** 2, .05))

    def recent(self, days: float) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (self.tau - self.last) <= days * DAY


# ------------------------------------------------------------------------------------------------ collaborative filters [B]
def trip_matrix(ev: Events) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Trips × items (0/1), instant and user of each trip."""
    ids, at = np.unique(ev.trip, return_inverse=True)
    t, u = np.zeros(len(ids)), np.zeros(len(ids), int)
    t[at], u[at] = ev.t, ev.u
    key = np.unique(at.astype(np.int64) * ev.items + ev.i)
    B = sp.csr_matrix((np.ones(len(key), np.float32), (key // ev.items, key % ev.items)), shape=(len(ids), ev.items))
    return B, t, u


def cosine(C: np.ndarray, shrink: float = 5.0, rows=None, cols=None) -> np.ndarray:
    rows = np.diag(C) if rows is None else rows
    cols = rows if cols is None else cols
    W = C / np.sqrt(np.outer(rows + shrink, cols + shrink))
    np.fill_diagonal(W, 0)
    return W.astype(np.float32)


def collaborative(S: State, B, trip_t, trip_u, seed: int = 1) -> dict[str, np.ndarray]:
    """Scores users × items. ii: same-trip cosine; nxt: next-trip, weight 1/(1+gap days); nbr: 200 nearest households; als."""
    tau, U = S.tau, S.ev.users
    m = trip_t < tau
    w = np.exp2(-(tau - trip_t[m]) / DAY / 180).astype(np.float32)
    same_trip = (B[m].T @ sp.diags(w) @ B[m]).toarray()
    out = {"ii": np.sqrt(S.s[45]) @ cosine(same_trip)}
    o = np.lexsort((trip_t, trip_u)); pair = trip_u[o][1:] == trip_u[o][:-1]
    a, b = o[:-1][pair], o[1:][pair]
    keep = trip_t[b] < tau
    a, b = a[keep], b[keep]
    w = np.exp2(-(tau - trip_t[b]) / DAY / 180) / (1 + (trip_t[b] - trip_t[a]) / DAY)
    nxt = (B[a].T @ sp.diags(w.astype(np.float32)) @ B[b]).toarray()
    out["nxt"] = S.s[14] @ cosine(nxt, rows=nxt.sum(1), cols=nxt.sum(0))
    X = np.log1p(S.s[120]) * np.log((U + 1) / ((S.s[120] > 0).sum(0) + 1))
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    sim = X @ X.T
    np.fill_diagonal(sim, 0)
    sim = np.where(sim >= np.partition(sim, -200, axis=1)[:, [-200]], sim, 0)
    sim = (sim / np.maximum(sim.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    out["nbr"], out["nbrs"] = sim @ S.s[45], sim @ (S.s[120] > .3).astype(np.float32)
    from implicit.cpu.als import AlternatingLeastSquares
    als = AlternatingLeastSquares(factors=48, iterations=8, regularization=5., alpha=8., num_threads=1, random_state=seed)
    als.fit(sp.csr_matrix(S.s[120]), show_progress=False)
    out["als"] = als.user_factors @ als.item_factors.T
    return out


# ------------------------------------------------------------------------------------------------ observed / expected [B]
def observed_expected(total: dict | None, S: State, bought: np.ndarray, keep: float = .9) -> dict[str, np.ndarray]:
    """After each matured week: labels observed and expected, per item and per user, in three regimes.

    f fresh (own last purchase ≤ 30 d), l lapsed (> 30 d), n never bought. Expected f, l: 1 − exp(−7·ln2·S_120/120);
    n: item's purchases per user and week. Decayed by 0.9 a week. `S` is the state at the week's start."""
    act = S.active[:, None]
    lam = 1 - np.exp(-S.s[120] * np.log(2) / 120 * 7)
    own, fresh = (S.count > 0) & act, (S.count > 0) & act & S.recent(30)
    base = np.broadcast_to((S.pop[30] / 30 * 7 / S.ev.users).astype(np.float32), lam.shape)
    new = {}
    for name, mask, expect in (("f", fresh, lam), ("l", own & ~fresh, lam), ("n", (S.count == 0) & act, base)):
        for side, axis in (("i", 0), ("u", 1)):
            new[side + name] = np.stack([(bought & mask).sum(axis), np.where(mask, expect, 0).sum(axis)]).astype(float)
    return new if total is None else {k: total[k] * keep + new[k] for k in new}


def smoothed_ratio(oe: np.ndarray, strength: float) -> np.ndarray:
    obs, exp = oe
    return (obs + strength * obs.sum() / exp.sum()) / (exp + strength)


# ------------------------------------------------------------------------------------------------ candidates
def top(scores: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
    s = np.where(allowed, scores, -np.inf)
    idx = np.argpartition(-s, k, axis=1)[:, :k]
    out = np.zeros(s.shape, bool)
    np.put_along_axis(out, idx, np.take_along_axis(s, idx, 1) > 0, 1)
    return out


def candidates(S: State, cf: dict, allowed: np.ndarray, k=(40, 40, 25, 50)) -> np.ndarray:
    """40 by 7-day popularity ∪ 40 item-to-item ∪ 25 ALS ∪ 50 own history (S_120): 92 per user, micro recall .56."""
    pop = np.broadcast_to(S.pop[7].astype(np.float32), S.s[7].shape)
    c = top(pop, k[0], allowed) | top(cf["ii"], k[1], allowed) | top(cf["als"], k[2], allowed) | top(S.s[120], k[3], allowed)
    return c & S.active[:, None]


# ------------------------------------------------------------------------------------------------ features
def features(S: State, cf: dict, oe: dict, promo: dict, u: np.ndarray, i: np.ndarray) -> dict[str, np.ndarray]:
    """One column per name for the rows (u, i). `promo`: see `promotions`. Missing is NaN; never ±inf."""
    at = lambda M: M[u, i]
    tau, ev, f = S.tau, S.ev, {}
    age, n = (tau - at(S.last)) / DAY, at(S.count)
    # user × item
    for h in (1, 7, 14, 30, 45, 120, 240):
        f[f"ui_s{h}"] = at(S.s[h])
    f["ui_count"], f["ui_age"], f["ui_first_age"] = n, age, (tau - at(S.first)) / DAY
    gap = np.where(n > 1, (at(S.last) - at(S.first)) / DAY / np.maximum(n - 1, 1), np.nan)
    f["ui_gap"], f["ui_due"] = gap, age / np.maximum(gap, .5)
    f["ui_last_gap"], f["ui_gap_n"], f["ui_log_gap_sd"] = at(S.last_gap), at(S.gap_n), at(S.log_gap_sd)
    f["ui_due_z"] = (np.log(np.maximum(age, .5)) - at(S.log_gap)) / (.3 + np.nan_to_num(at(S.log_gap_sd), nan=.7))
    since = lambda t: np.where(n > 0, S.trips_n[u] - S.trips.count_before(u, np.nan_to_num(t)), np.nan)
    f["ui_trips_since"] = since(at(S.last))                                                     # [C]
    f["ui_per_trip"] = n / np.maximum(since(at(S.first)), 1)                                    # [C]
    f["ui_due_trips"] = f["ui_trips_since"] * f["ui_per_trip"]
    for h in (14, 45, 120):
        f[f"ui_rate{h}"] = f[f"ui_s{h}"] / np.maximum(S.trip[h][u], .3)                         # P(item | trip)
    f["ui_q45"], f["ui_last_q"] = at(S.q45), at(S.last_q)
    f["ui_share"] = f["ui_s120"] / np.maximum(S.s[120].sum(1)[u], .1)
    # renewal hazard: log-normal gaps, the item's population curve blended with the user's own mean gap (weight n−1 against 2)
    own = np.maximum(n - 1, 0)
    mu = (2 * S.item_log_gap[i] + own * np.log(np.maximum(np.nan_to_num(gap, nan=1.), .5))) / (2 + own)
    sd = S.item_log_gap_sd[i]
    survive = lambda d: 1 - ndtr((np.log(np.maximum(d, .3)) - mu) / sd)
    alive, later = np.maximum(survive(age), 1e-4), 1 - ndtr((np.log(np.maximum(age, .3) + 7) - mu) / sd)
    f["ui_hazard7"] = np.where(n > 0, (alive - later) / alive, np.nan)
    f["ui_due_population"], f["i_log_gap"], f["i_log_gap_sd"] = age / np.exp(S.item_log_gap[i]), S.item_log_gap[i], sd
    # user
    for h in (1, 7, 30, 120):
        f[f"u_trips{h}"] = S.trip[h][u]
    f["u_age"], f["u_trips"] = ((tau - S.trip_last) / DAY)[u], S.trips_n[u]
    f["u_gap"] = ((S.trip_last - S.trip_first) / DAY / np.maximum(S.trips_n - 1, 1))[u]
    f["u_due"] = f["u_age"] / np.maximum(f["u_gap"], .3)
    f["u_basket45"] = (S.s[45].sum(1) / np.maximum(S.trip[45], .3))[u]
    f["u_basket7"] = (S.s[7].sum(1) / np.maximum(S.trip[7], .3))[u]
    f["u_distinct"] = (S.s[120] > .25).sum(1)[u]
    f["u_new_share"], f["u_promo_share"] = S.new_share_user[u], S.promo_share_user[u]
    # item
    for h in (3, 7, 30, 120):
        f[f"i_pop{h}"] = S.pop[h][i]
    f["i_trend7"], f["i_trend30"] = (S.pop[7] / (S.pop[30] + 1))[i], (S.pop[30] / (S.pop[120] + 1))[i]
    buyers, sold = (S.count > 0).sum(0), S.count.sum(0)
    f["i_buyers"], f["i_rebuy"] = buyers[i], ((sold - buyers) / np.maximum(sold, 1))[i]
    f["i_per_buyer"], f["i_new_share"] = (sold / np.maximum(buyers, 1))[i], S.new_share_item[i]
    # user × category (sums of user × item rows)
    onehot = sp.csr_matrix((np.ones(ev.items, np.float32), (np.arange(ev.items), ev.category)))
    c, cat_last = ev.category[i], np.full((ev.users, onehot.shape[1]), np.nan)
    cat_last[ev.u[S.now], ev.category[ev.i[S.now]]] = ev.t[S.now]
    for h in (7, 45, 120):
        f[f"uc_s{h}"] = np.asarray(S.s[h] @ onehot)[u, c]
    f["uc_age"] = (tau - cat_last[u, c]) / DAY
    f["uc_share"], f["uc_since"] = f["ui_s120"] / np.maximum(f["uc_s120"], 1e-3), age - f["uc_age"]
    f["uc_siblings7"], f["uc_siblings45"] = f["uc_s7"] - f["ui_s7"], f["uc_s45"] - f["ui_s45"]
    # collaborative, observed ÷ expected, calendar
    for name, M in cf.items():
        f[f"cf_{name}"] = at(M)
    for r in "fln":
        f[f"i_ratio_{r}"] = smoothed_ratio(oe["i" + r], 5 if r == "n" else 20)[i]
        f[f"u_ratio_{r}"] = smoothed_ratio(oe["u" + r], 5)[u]
    store = promo["main_store"][u]
    for kind in ("display", "mailer"):
        now, mean8 = promo[kind][store, i], promo[kind + "_mean8"][store, i]
        f[f"pr_{kind}"], f[f"pr_{kind}_ratio"], f[f"pr_{kind}_all"] = now, (now + .1) / (mean8 + .1), promo[kind].mean(0)[i]
    return f


def promotions(counts: dict[str, np.ndarray], week: int, visits: tuple, tau: float, users: int) -> dict:
    """[K] counts[kind][week, store, item] = products of the item on display / mailer; the label week is known in advance.

    Main store: most visited among stores of the calendar, 60-day half-life, visits strictly before tau."""
    u, store, t = visits
    m = t < tau
    n = counts["display"].shape[1]
    main = np.bincount(u[m] * n + store[m], np.exp2(-(tau - t[m]) / DAY / 60), minlength=users * n).reshape(users, n).argmax(1)
    out = {"main_store": main}
    for kind, c in counts.items():
        out[kind], out[kind + "_mean8"] = c[week], c[week - 8:week].mean(0)
    return out


# ------------------------------------------------------------------------------------------------ CTR
PARAMETERS = dict(objective="binary:logistic", eval_metric="logloss", tree_method="hist", max_depth=6, eta=.04,
                  min_child_weight=30, subsample=.8, colsample_bytree=.5, reg_lambda=5, max_bin=128, seed=0)
NEGATIVES = .2


def sample(y: np.ndarray, rng) -> np.ndarray:
    return y | (rng.random(len(y)) < NEGATIVES)


def unsample(p: np.ndarray, w: float = NEGATIVES) -> np.ndarray:
    """Prior correction of kept-at-w negatives."""
    return p / (p + (1 - p) / w)


def train(X, y, X_valid, y_valid, names, nthread=2):
    """Both matrices sampled at NEGATIVES; early stopping 40 rounds on the validation week."""
    import xgboost as xgb
    make = lambda A, b, **k: xgb.QuantileDMatrix(A, b, feature_names=names, nthread=nthread, max_bin=PARAMETERS["max_bin"], **k)
    d = make(X, y)
    return xgb.train(PARAMETERS | {"nthread": nthread}, d, 1500, evals=[(make(X_valid, y_valid, ref=d), "validation")],
                     early_stopping_rounds=40, verbose_eval=False)


RANK = dict(objective="rank:ndcg", eval_metric="ndcg@10", lambdarank_pair_method="topk", lambdarank_num_pair_per_sample=12, tree_method="hist",
            max_depth=5, eta=.08, min_child_weight=1, subsample=.8, colsample_bytree=.5, reg_lambda=5, max_bin=64, seed=0)


def train_rank(X, y, group, X_valid, y_valid, group_valid, nthread=2):
    """Order within the user. group = (user, snapshot) code; rows sorted by group; groups without a positive dropped; 45 best columns."""
    import xgboost as xgb
    make = lambda A, b, q, **k: xgb.QuantileDMatrix(A, b, qid=q, nthread=nthread, max_bin=RANK["max_bin"], **k)
    d = make(X, y, group)
    return xgb.train(RANK | {"nthread": nthread}, d, 300, evals=[(make(X_valid, y_valid, group_valid, ref=d), "validation")],
                     early_stopping_rounds=40, verbose_eval=False)


# ------------------------------------------------------------------------------------------------ send windows
def circular_kernel(sigma: float) -> np.ndarray:
    d = np.minimum(np.arange(24), 24 - np.arange(24))
    k = np.exp(-.5 * (d / sigma) ** 2)
    return np.array([[k[(a - b) % 24] for b in range(24)] for a in range(24)]) / k.sum()


def curve_mixture(N: np.ndarray, K=32, beta=.6, strength=20., seed=0, rounds=40) -> np.ndarray:
    """Users' prior curves (users × 2 × 24) from an EM mixture of K (day type × hour) curves.

    N: users × 2 × 24 decayed trip counts. beta < 1 tempers the likelihood (trips of one user are not independent);
    a user counts at most 40 trips in the M step."""
    X = (N @ circular_kernel(1.).T).reshape(len(N), 48)
    total = X.sum(0) / X.sum()
    n = X.sum(1)
    rng = np.random.default_rng(seed)
    C = X[rng.choice(np.flatnonzero(n >= 5), K, replace=False)] + strength * total
    C /= C.sum(1, keepdims=True)
    share = np.ones(K) / K
    for _ in range(rounds):
        L = np.log(share) + beta * (X @ np.log(C).T)
        R = np.exp(L - L.max(1, keepdims=True)); R /= R.sum(1, keepdims=True)
        share = (R.sum(0) + 1) / (len(R) + K)
        C = (R * np.minimum(1, 40 / np.maximum(n, 1e-9))[:, None]).T @ X + strength * total
        C /= C.sum(1, keepdims=True)
    return (R @ C).reshape(-1, 2, 24)


def three_levels(N, prior, a_hour, a_type, a_day, s_hour=1.13, s_type=.29):
    """prior curve → user's hour curve (kernel s_hour, concentration a_hour) → hour curve by day type (a_type) × share of day types (a_day)."""
    n, n_type = N.sum((1, 2)), N.sum(2)
    P_hour, P_given = prior.sum(1), prior / prior.sum(2, keepdims=True)
    H = (N.sum(1) @ circular_kernel(s_hour).T + a_hour * P_hour) / (n + a_hour)[:, None]
    tilt = H[:, None, :] * P_given / np.maximum(P_hour, 1e-9)[:, None, :]
    tilt /= tilt.sum(2, keepdims=True)
    given = (N @ circular_kernel(s_type).T + a_type * tilt) / (n_type + a_type)[:, :, None]
    day = (n_type + a_day * prior.sum(2)) / (n + a_day)[:, None]
    return given * day[:, :, None]


def send_windows(N_all: np.ndarray, N_120: np.ndarray, N_30: np.ndarray) -> np.ndarray:
    """users × 16 (workday 8 cells, weekend 8 cells): geometric pool of the whole history (.565) and of the last month (.41)."""
    cells = lambda P: P.reshape(len(P), 2, 8, 3).sum(3).reshape(len(P), 16)
    slow = cells(three_levels(N_all, curve_mixture(N_all), 26, 70, 27))
    fast = cells(three_levels(N_30, curve_mixture(N_120), 9, 30, 12, s_hour=1.2))
    p = np.exp(.565 * np.log(slow) + .41 * np.log(fast))
    return p / p.sum(1, keepdims=True)

"""Settings by method: what of its Config depends on the data, the number of epochs or the noise, with the sources.

A warm-up or a ramp is the share of the run that it was in its paper or public code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from acto.data.noise import NoiseSpec
from acto.methods.acto import ACTO
from acto.methods.agce import AGCE
from acto.methods.anl import ANL
from acto.methods.ca2c import CA2C
from acto.methods.co_ldl import CoLDL
from acto.methods.co_teaching import CoTeaching
from acto.methods.co_teaching_plus import CoTeachingPlus
from acto.methods.decoupling import Decoupling
from acto.methods.disc import DISC
from acto.methods.dividemix import DivideMix
from acto.methods.elr import ELR
from acto.methods.elr_plus import ELRPlus
from acto.methods.jo_src import JoSRC
from acto.methods.jocor import JoCoR
from acto.methods.npn import NPN
from acto.methods.pencil import PENCIL
from acto.methods.plc import PLC
from acto.methods.pnp import PNP
from acto.methods.promix import ProMix
from acto.methods.sce import SCE
from acto.methods.sed import SED
from acto.methods.snscl import SNSCL
from acto.methods.sop import SOP
from acto.methods.unicon import UNICON
from acto.runs.recipes.by_data import Setting


def _acto(setting: Setting, noise: NoiseSpec) -> ACTO.Config:
    # What varies with the data. In the published form the share does not, but every record of it has one.
    own: dict[str, Any] = {}
    if setting.form == "published":
        own = {"selection": setting.selection, "consistency_weight": 0.2}
    elif not setting.mixes:
        own = {"mixing": 0.0, "selected_weight": 0.8, "consistency_weight": 0.2}
    return ACTO.Config(
        warmup_epochs=setting.warmup_epochs,
        tau=setting.tau,
        form=setting.form,
        label_smoothing=setting.label_smoothing,
        **own,
    )


def _share(setting: Setting, epochs: int, *, of: int) -> int:
    """Epochs that are to this run what `epochs` are to one of `of` epochs; at least one."""
    return max(1, round(setting.epochs * epochs / of))


def _co_teaching(setting: Setting, noise: NoiseSpec) -> CoTeaching.Config:
    # Its paper and public code: T_k is a number of epochs, 10 of 200 on every data set. So it is in JoCoR's.
    return CoTeaching.Config(ramp_epochs=_share(setting, 10, of=200))


def _co_teaching_plus(setting: Setting, noise: NoiseSpec) -> CoTeachingPlus.Config:
    # Its public code: Co-teaching's ramp, and a warm-up of 20 epochs on CIFAR-10, 5 on CIFAR-100.
    return CoTeachingPlus.Config(
        ramp_epochs=_share(setting, 10, of=200),
        warmup_epochs=_share(setting, 5 if setting.like_cifar100 else 20, of=200),
    )


def _decoupling(setting: Setting, noise: NoiseSpec) -> Decoupling.Config:
    # Its public code: no warm-up. [ours]: equal pre-trained bodies need one before they have anything to disagree on.
    return Decoupling.Config(warmup_epochs=setting.warmup_epochs if setting.weights else 0)


def _jocor(setting: Setting, noise: NoiseSpec) -> JoCoR.Config:
    # Its authors, in the README and in answers: 0.9 on CIFAR-10, 0.65 there at 80 %; 0.85 on CIFAR-100. [ours]: 0.85 on
    # web data, inside of the 0.5 to 0.9 that they advise.
    co_lambda = 0.65 if noise.rate >= 0.8 else 0.9
    if setting.like_cifar100 or setting.weights:
        co_lambda = 0.85
    return JoCoR.Config(ramp_epochs=_share(setting, 10, of=200), co_lambda=co_lambda)


def _elr_constants(setting: Setting, noise: NoiseSpec) -> tuple[float, float]:
    """Beta and lambda as in the public code: CIFAR-100; CIFAR-10 asymmetric; CIFAR-10, WebVision and Clothing1M."""
    if setting.like_cifar100:
        return 0.9, 7.0
    return (0.9, 1.0) if noise.kind == "asymmetric" else (0.7, 3.0)


def _elr(setting: Setting, noise: NoiseSpec) -> ELR.Config:
    beta, weight = _elr_constants(setting, noise)
    return ELR.Config(beta=beta, weight=weight)


def _elr_plus(setting: Setting, noise: NoiseSpec) -> ELRPlus.Config:
    # Its public code: ramps of 40,000 steps, which are 114 of 200 epochs on CIFAR-10 and of 250 on CIFAR-100.
    beta, weight = _elr_constants(setting, noise)
    ramp_epochs = setting.epochs * 114 / (250 if setting.like_cifar100 else 200)
    return ELRPlus.Config(
        beta=beta,
        weight=weight,
        weight_ramp_epochs=ramp_epochs if setting.like_cifar100 else 0.0,
        ema_ramp_epochs=ramp_epochs,
        label_reweighting=setting.like_cifar100,
    )


def _dividemix(setting: Setting, noise: NoiseSpec) -> DivideMix.Config:
    # Its public code and appendix: a warm-up of 10 of 300 epochs (CIFAR-100: 30), a ramp of 16, X and U half a batch
    # each; lambda_u by rate; 0.6 and five epochs' losses at 90 %. Pre-trained: its Clothing1M script, a warm-up of 1
    # of 80 epochs. [ours]: CIFAR-100 with asymmetric noise, which it does not define, has CIFAR-10's lambda_u of 0.
    lambda_u = 0.0
    if noise.kind == "symmetric" and not setting.weights:
        steps = ((0.4, 150.0), (0.0, 25.0)) if setting.like_cifar100 else ((0.85, 50.0), (0.4, 25.0))
        lambda_u = next((weight for rate, weight in steps if noise.rate >= rate), 0.0)
    extreme = noise.rate >= 0.85
    warmup = _share(setting, 30 if setting.like_cifar100 else 10, of=300)
    return DivideMix.Config(
        warmup_epochs=_share(setting, 1, of=80) if setting.weights else warmup,
        batch_size=max(2, setting.batch_size // 2),
        lambda_u=lambda_u,
        ramp_epochs=setting.epochs * 16 / 300,
        p_threshold=0.6 if extreme else 0.5,
        alpha=0.5 if setting.weights else 4.0,
        entropy_weight=1.0 if noise.kind == "asymmetric" or setting.weights else 0.0,
        loss_epochs=5 if extreme else 1,
        train_on_unlabelled=not setting.weights,
    )


def _pencil(setting: Setting, noise: NoiseSpec) -> PENCIL.Config:
    # Its public code: stages of 70, 130 and 120 epochs; a label rate of 600 at 128 samples and 10 classes, and its
    # authors scale it with both. [ours]: as if for 100 classes where the data are like CIFAR-100 or pre-trained.
    classes = 100 if setting.like_cifar100 or setting.weights else 10
    return PENCIL.Config(
        warmup_epochs=_share(setting, 70, of=320),
        correction_epochs=_share(setting, 130, of=320),
        label_rate=600 * (setting.batch_size / 128) * (classes / 10),
    )


def _sce(setting: Setting, noise: NoiseSpec) -> SCE.Config:
    # CIFAR-10 and CIFAR-100: its public code; pre-trained: the values for WebVision of a later comparison (ANL).
    if setting.like_cifar100:
        return SCE.Config(alpha=6.0, beta=0.1)
    return SCE.Config(alpha=10.0, beta=1.0) if setting.weights else SCE.Config(alpha=0.1, beta=1.0)


def _snscl(setting: Setting, noise: NoiseSpec) -> SNSCL.Config:
    # DivideMix's settings. Its public code (100 epochs on fine-grained photographs): a warm-up of 13, keys of 1024
    # numbers, a key network that reaches back 5 epochs. [ours]: keys of 128 numbers, MoCo's, for small pictures.
    base = asdict(_dividemix(setting, noise))
    if setting.weights:
        base["warmup_epochs"] = _share(setting, 13, of=100)
    return SNSCL.Config(**base, projection_dim=1024 if setting.weights else 128, ema_epochs=setting.epochs * 5 / 100)


def _agce(setting: Setting, noise: NoiseSpec) -> AGCE.Config:
    # Its public code, NCE+AGCE on CIFAR-100 and on CIFAR-10, and AGCE alone on WebVision, where it is the better.
    if setting.like_cifar100:
        return AGCE.Config(alpha=10.0, beta=0.1, a=1.8, q=3.0)
    return AGCE.Config(alpha=0.0, beta=1.0, a=1e-5, q=0.5) if setting.weights else AGCE.Config()


def _anl(setting: Setting, noise: NoiseSpec) -> ANL.Config:
    # Its public code: CIFAR-100; WebVision for what is pre-trained, but [ours] without the penalty, which would pull
    # pre-trained weights to 0; CIFAR-10.
    if setting.like_cifar100:
        return ANL.Config(alpha=10.0, beta=1.0, delta=5e-7)
    return ANL.Config(alpha=20.0, beta=1.0, delta=0.0) if setting.weights else ANL.Config()


def _sop(setting: Setting, noise: NoiseSpec) -> SOP.Config:
    # Its public code for CIFAR-100 and the paper's Table A.1 for CIFAR-10 and Clothing1M (pre-trained). [ours]: other
    # noise than asymmetric counts as symmetric; rates grow with the batch, over whose mean they act, and where the run
    # has fewer than the 120 epochs (pre-trained: 10) in which u and v must grow from 1e-8 to 1.
    asymmetric = noise.kind == "asymmetric"
    rates = (10.0, 100.0) if asymmetric else (10.0, 10.0)
    if setting.like_cifar100:
        rates = (0.1, 100.0) if asymmetric else (1.0, 10.0)
    if setting.weights:
        rates = (0.1, 1.0)
    scale = setting.batch_size / 128 * max(1.0, (10 if setting.weights else 120) / setting.epochs)
    return SOP.Config(u_rate=scale * rates[0], v_rate=scale * rates[1])


def _disc(setting: Setting, noise: NoiseSpec) -> DISC.Config:
    # Its public code, 200 epochs on CIFAR: a warm-up of 20, of 15 with instance-dependent noise; thresholds that move
    # by 0.01 an epoch, by 0.05 with asymmetric or heavy noise; a fifth of L_H with heavy noise. Its Food-101: a warm-up
    # of 10 of 100 epochs, thresholds by 0.05.
    heavy = noise.rate >= 0.6
    if setting.weights:
        warmup, momentum = _share(setting, 10, of=100), 0.95 ** (100 / setting.epochs)
    else:
        warmup = _share(setting, 15 if noise.kind == "instance" else 20, of=200)
        momentum = (0.95 if heavy or noise.kind == "asymmetric" else 0.99) ** (200 / setting.epochs)
    return DISC.Config(warmup_epochs=warmup, momentum=momentum, hard_weight=0.2 if heavy else 1.0)


def _npn(setting: Setting, noise: NoiseSpec) -> NPN.Config:
    # Its README: a warm-up of 200 of 300 epochs on CIFAR; on Web-aircraft 40 of 100, one vote, smoothing 0.2, beta 2.
    if setting.weights:
        return NPN.Config(
            warmup_epochs=_share(setting, 40, of=100), num_votes=1, consistency_weight=2.0, label_smoothing=0.2
        )
    return NPN.Config(warmup_epochs=_share(setting, 200, of=300))


def _sed(setting: Setting, noise: NoiseSpec) -> SED.Config:
    # CIFAR100N and CIFAR80N: its public script run.sh, with lines for 20 % and 80 % of symmetric and 40 % of asymmetric
    # noise; web: its README; else the paper's one setting. Each: last epoch, momenta of the thresholds and of the
    # weights, alpha, the teacher's decay. Rates and their plan are the protocol's, as for every method.
    # [ours]: symmetric noise below 80 % has the line for 20 %; the momenta, which count epochs, reach over the same
    # share of the run as in the one that they were made for.
    line = "asymmetric" if noise.kind == "asymmetric" else "80 %" if noise.rate >= 0.8 else "20 %"
    if setting.weights:
        epochs, of_thresholds, of_weights, alpha, decay = 110, 0.999, 0.99, 0.5, 0.95
    elif setting.like_cifar80n:
        epochs, of_thresholds, of_weights, alpha, decay = {
            "20 %": (140, 0.999, 0.85, 0.5, 0.99),
            "80 %": (100, 0.95, 0.85, 1.0, 0.99),
            "asymmetric": (140, 0.9, 0.9, 1.0, 0.99),
        }[line]
    elif setting.like_cifar100:
        epochs, of_thresholds, of_weights, alpha, decay = {
            "20 %": (100, 0.9, 0.9, 1.0, 0.99),
            "80 %": (100, 0.999, 0.99, 1.0, 0.95),
            "asymmetric": (140, 0.9, 0.9, 1.0, 0.99),
        }[line]
    else:
        epochs, of_thresholds, of_weights, alpha, decay = 100, 0.99, 0.99, 1.0, 0.95

    def reach(momentum: float) -> float:
        return float(momentum ** (epochs / setting.epochs))

    return SED.Config(
        warmup_epochs=_share(setting, 10 if setting.weights else 20, of=epochs),
        threshold_momentum=reach(of_thresholds),
        weight_momentum=reach(of_weights),
        ema_decay=decay,
        alpha=alpha,
        label_smoothing=0.3 if setting.weights else 0.0,
    )


def _jo_src(setting: Setting, noise: NoiseSpec) -> JoSRC.Config:
    # Its public code: a warm-up of 10 of 200 epochs and eps 0.6 on CIFAR; 5 of 50 and 0.65 on Food101N. [ours]: the
    # latter on all that is pre-trained.
    if setting.weights:
        return JoSRC.Config(warmup_epochs=_share(setting, 5, of=50), eps=0.65)
    return JoSRC.Config(warmup_epochs=_share(setting, 10, of=200))


def _unicon(setting: Setting, noise: NoiseSpec) -> UNICON.Config:
    # Its public code: a warm-up of 10 of 350 epochs (CIFAR-100: 30), a ramp of 16, X half a batch; the rest is the same
    # for every noise. Pre-trained: its WebVision script, a warm-up of 2 of 120 epochs, and no L_U and mixtures nearer
    # to their own sample as in its Clothing1M script.
    warmup = _share(setting, 30 if setting.like_cifar100 else 10, of=350)
    return UNICON.Config(
        warmup_epochs=_share(setting, 2, of=120) if setting.weights else warmup,
        batch_size=max(2, setting.batch_size // 2),
        lambda_u=0.0 if setting.weights else 30.0,
        ramp_epochs=setting.epochs * 16 / 350,
        alpha=0.5 if setting.weights else 4.0,
        entropy_weight=1.0 if noise.kind == "asymmetric" else 0.0,
    )


def _pnp(setting: Setting, noise: NoiseSpec) -> PNP.Config:
    # Its public scripts: a warm-up of 10 of 200 epochs on CIFAR; on Web-aircraft and Web-car 5 of 120, eps 0.5 and
    # the views' disagreement alone for r_o. [ours]: that on all that is pre-trained.
    if setting.weights:
        return PNP.Config(warmup_epochs=_share(setting, 5, of=120), eps=0.5, alpha=1.0, eta=1.0)
    return PNP.Config(warmup_epochs=_share(setting, 10, of=200))


def _plc(setting: Setting, noise: NoiseSpec) -> PLC.Config:
    # Its public code: CIFAR, a warm-up of 8 of 180 epochs (CIFAR-100: 15, from its README); Food101N, a warm-up of 4 of
    # 30 epochs, a stricter delta.
    if setting.weights:
        of_30 = _share(setting, 4, of=30)
        return PLC.Config(warmup_epochs=of_30, window=of_30, delta=0.1, increment=0.05)
    return PLC.Config(
        warmup_epochs=_share(setting, 15 if setting.like_cifar100 else 8, of=180), window=_share(setting, 5, of=180)
    )


def _ca2c(setting: Setting, noise: NoiseSpec) -> CA2C.Config:
    # Its public code: a warm-up of 400 of 700 epochs, all else the same everywhere.
    return CA2C.Config(warmup_epochs=_share(setting, 400, of=700))


def _co_ldl(setting: Setting, noise: NoiseSpec) -> CoLDL.Config:
    # Its public code for the web data sets, a stage 1 of 10 of 110 epochs and a label rate of 200 at 16 samples. No
    # code is public for anything else: [ours], the same, the rate growing with the batch.
    return CoLDL.Config(warmup_epochs=_share(setting, 10, of=110), label_rate=200 * setting.batch_size / 16)


def _promix(setting: Setting, noise: NoiseSpec) -> ProMix.Config:
    # Its public scripts, 600 epochs: rho of 0.7 at 20 % noise and 0.5 else; CIFAR-100 has a longer warm-up and a lower
    # tau and a. [ours]: at 80 % and more, which they leave out, rho is the share of right labels; pre-trained, as on
    # CIFAR-100. Its author on instance-dependent noise: by the classes' own sizes.
    many = setting.like_cifar100 or setting.weights is not None
    rho = 0.7 if 0 < noise.rate <= 0.2 else 0.5
    rho = 1 - noise.rate if noise.rate >= 0.8 else rho
    share = setting.epochs / 600
    return ProMix.Config(
        warmup_epochs=_share(setting, 30 if many else 10, of=600),
        rho_start=rho,
        rho_end=rho,
        own_class_size=noise.kind == "instance" or setting.weights is not None,
        tau=0.95 if many else 0.99,
        ramp_epochs=50 * share,
        guess_epochs=_share(setting, 250, of=600),
        debias=0.5 if many else 0.8,
        prior_epochs=51 * share,
        unreliable_ramp_epochs=100 * share,
        entropy_weight=1.0 if noise.kind == "asymmetric" else 0.0,
    )


CONFIGS: dict[str, Callable[[Setting, NoiseSpec], Any]] = {
    "acto": _acto,
    "agce": _agce,
    "anl": _anl,
    "ca2c": _ca2c,
    "co-ldl": _co_ldl,
    "co-teaching": _co_teaching,
    "co-teaching-plus": _co_teaching_plus,
    "decoupling": _decoupling,
    "disc": _disc,
    "dividemix": _dividemix,
    "elr": _elr,
    "elr-plus": _elr_plus,
    "jo-src": _jo_src,
    "jocor": _jocor,
    "npn": _npn,
    "pencil": _pencil,
    "plc": _plc,
    "pnp": _pnp,
    "promix": _promix,
    "sce": _sce,
    "sed": _sed,
    "snscl": _snscl,
    "sop": _sop,
    "unicon": _unicon,
}
"""Per method: the fields of its Config that depend on the data set, the number of epochs or the noise."""

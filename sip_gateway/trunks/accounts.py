"""Who we are towards each trunk: registration with digest, or a name for peers' calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pjsua2 as pj

from services.common.errors import LandlineError
from sip_gateway import endpoint_setup
from sip_gateway.endpoint import LOCAL, REFUSING
from sip_gateway.events import OptionsAnswered, RegistrationChanged
from sip_gateway.trunks import account_media
from sip_gateway.trunks.trunk import MIN_SESSION_EXPIRES_S, Server, Srtp, Transport, Trunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sip_gateway.endpoint import Endpoint

_EXPIRES_S = 300
_NO_SESSION_TIMER_S = 1800  # must be valid even where it is not used


class PjAccount(pj.Account):  # type: ignore[misc]
    """An account whose calls and registration go to `endpoint` and `on_registration`."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        config: Any,
        on_registration: Callable[[RegistrationChanged], None],
        on_options: Callable[[OptionsAnswered], None],
    ) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._name = name
        self._config = config
        self._on_registration = on_registration
        self._on_options = on_options

    def route_by(self, route: str) -> None:
        """Send what begins from now on by way of `route`; dialogs that are up keep theirs."""
        proxies = self._config.sipConfig.proxies
        if list(proxies) == [route]:
            return
        proxies.clear()
        proxies.append(route)
        self.modify(self._config)

    def send_options(self, uri: str) -> None:
        """Ask whether the server at `uri` is there; the answer is told to `on_options`."""
        parameters = pj.SendRequestParam()
        parameters.method = "OPTIONS"
        parameters.txOption.targetUri = uri
        self.sendRequest(parameters)

    def onSendRequest(self, prm: Any) -> None:  # noqa: N802 - named by pjsua2
        self._endpoint.guard(lambda: self._options_answered(prm))

    def _options_answered(self, prm: Any) -> None:
        state = prm.e.body.tsxState
        event = OptionsAnswered(
            trunk=self._name,
            sip_status=int(state.tsx.statusCode),
            by_peer=state.type == pj.PJSIP_EVENT_RX_MSG,
        )
        self._endpoint.post(self._on_options, event)

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802 - named by pjsua2
        self._endpoint.guard(lambda: self._endpoint.incoming(self, prm))

    def onRegState(self, prm: Any) -> None:  # noqa: N802 - named by pjsua2
        self._endpoint.guard(lambda: self._registration_changed(prm))

    def _registration_changed(self, prm: Any) -> None:
        status = int(prm.code)
        self._endpoint.alg.answer(self._name, prm.rdata)
        self._endpoint.post(
            self._on_registration,
            RegistrationChanged(
                trunk=self._name,
                registered=status // 100 == 2 and prm.expiration > 0,
                sip_status=status,
                reason=prm.reason,
                expires_s=int(prm.expiration),
                registrar_ip=prm.rdata.srcAddress.rpartition(":")[0],
            ),
        )


def local_account(identity: str = "landline") -> Callable[[Endpoint], PjAccount]:
    """An account for calls from peers and to anybody, without registration."""

    def make(endpoint: Endpoint) -> PjAccount:
        config = _base_config(endpoint)
        config.idUri = f"sip:{identity}@{endpoint.contact_host}"
        return _created(endpoint, LOCAL, config, default=True)

    return make


def refusing_account() -> Callable[[Endpoint], PjAccount]:
    """The account of calls that will be refused: it opens no socket for their media."""

    def make(endpoint: Endpoint) -> PjAccount:
        config = _base_config(endpoint, srtp=Srtp.OPTIONAL)  # so that we refuse, and PJSIP does not
        config.idUri = "sip:refused@refused.invalid"
        config.mediaConfig.useLoopMedTp = True
        return _created(endpoint, REFUSING, config)

    return make


def dialing_account(
    identity: str,
    domain: str,
    username: str,
    password: str,
    proxy: str = "",
    srtp: Srtp = Srtp.OFF,
) -> Callable[[Endpoint], PjAccount]:
    """An account that answers digest challenges on its own INVITEs, without registration."""

    def make(endpoint: Endpoint) -> PjAccount:
        config = _base_config(endpoint, srtp=srtp)
        config.idUri = f"sip:{identity}@{domain or endpoint.contact_host}"
        if username:
            config.sipConfig.authCreds.append(_digest(username, password))
        if proxy:
            config.sipConfig.proxies.append(proxy)
        return _created(endpoint, LOCAL, config, default=True)

    return make


def trunk_account(
    trunk: Trunk,
    *,
    on_registration: Callable[[RegistrationChanged], None] = lambda _event: None,
    on_options: Callable[[OptionsAnswered], None] = lambda _event: None,
    register: bool = False,
) -> Callable[[Endpoint], PjAccount]:
    """Who we are towards a trunk. `register`: at once, and not when it is told to.

    ConfigError when its password cannot be had.
    """
    password = trunk.password.read() if trunk.password is not None else ""

    def make(endpoint: Endpoint) -> PjAccount:
        config = _base_config(endpoint, trunk)
        config.idUri = f"sip:{trunk.caller_id or 'landline'}@{endpoint.contact_host}"
        if trunk.username:
            config.sipConfig.authCreds.append(_digest(trunk.username, password))
        if trunk.registrar is not None:
            config.idUri = f"sip:{trunk.username}@{trunk.registrar.host}"
            if endpoint.config.place is None:  # behind an edge that is what registers
                _registers(config, trunk, trunk.registrar, register=register)
        _session_timer(config.callConfig, trunk.session_expires_s)
        return _created(
            endpoint, trunk.name, config, on_registration=on_registration, on_options=on_options
        )

    return make


def registered_account(
    trunk: Trunk, on_registration: Callable[[RegistrationChanged], None]
) -> Callable[[Endpoint], PjAccount]:
    """An account that registers at the trunk's registrar at once."""
    if trunk.registrar is None or trunk.username is None or trunk.password is None:
        raise LandlineError(f"trunk {trunk.name} does not register")
    return trunk_account(trunk, on_registration=on_registration, register=True)


def _registers(config: Any, trunk: Trunk, registrar: Server, *, register: bool) -> None:
    parameters = ";transport=tcp" if trunk.transport is Transport.TCP else ""
    config.regConfig.registrarUri = f"sip:{registrar}{parameters}"
    config.regConfig.registerOnAdd = register
    config.regConfig.timeoutSec = _EXPIRES_S
    # Retrying is done by Registration, which also retries what PJSIP gives up on.
    config.regConfig.retryIntervalSec = 0


def _session_timer(config: Any, expires_s: int) -> None:
    """RFC 4028: whoever can refreshes; a call whose other side has vanished is ended."""
    config.timerUse = pj.PJSUA_SIP_TIMER_OPTIONAL if expires_s else pj.PJSUA_SIP_TIMER_INACTIVE
    config.timerSessExpiresSec = expires_s or _NO_SESSION_TIMER_S
    config.timerMinSESec = MIN_SESSION_EXPIRES_S


def _base_config(endpoint: Endpoint, trunk: Trunk | None = None, srtp: Srtp = Srtp.OFF) -> Any:
    config = pj.AccountConfig()
    nat = endpoint.config.nat.for_trunk(trunk) if trunk else endpoint.config.nat
    endpoint_setup.media_config(endpoint.config, config.mediaConfig)
    account_media.apply_nat(config, nat)
    account_media.apply_srtp(config, trunk.srtp if trunk else srtp)
    place, edge = endpoint.config.place, endpoint.config.edge_proxy
    if place is not None and edge is not None:
        # Everything of ours goes through the edge, and what answers it comes back to us.
        config.sipConfig.contactForced = f"<{place.contact}>"
        config.sipConfig.proxies.append(f"sip:{edge};lr")
    elif trunk is not None and nat.public_address != endpoint.config.nat.public_address:
        host = nat.public_address or account_media.own_address_towards(trunk, endpoint.address)
        config.sipConfig.contactForced = _contact(trunk, host, endpoint.address.port)
    return config


def _contact(trunk: Trunk, host: str, port: int) -> str:
    transport = ";transport=tcp" if trunk.transport is Transport.TCP else ""
    return f"<sip:{trunk.username or 'landline'}@{host}:{port}{transport}>"


def _digest(username: str, password: str) -> Any:
    return pj.AuthCredInfo("digest", "*", username, 0, password)


def _created(
    endpoint: Endpoint,
    name: str,
    config: Any,
    *,
    default: bool = False,
    on_registration: Callable[[RegistrationChanged], None] = lambda _event: None,
    on_options: Callable[[OptionsAnswered], None] = lambda _event: None,
) -> PjAccount:
    account = PjAccount(endpoint, name, config, on_registration, on_options)
    account.create(config, default)
    return account

"""The torture messages of RFC 4475, each after its section's description.

They are made for our addresses: the top Via has an rport, so that an answer comes back to who sent
it, and `{target}` is the gateway. `{length}` is the true length of the body. Line ends are written
as `\\n` and sent as CRLF.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

NO_ANSWER = 0
_SDP = (
    "v=0\no=mhandley 29739 7272939 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\n"
    "m=audio 49217 RTP/AVP 0 12\nm=video 3227 RTP/AVP 31\na=rtpmap:31 LPC\n"
)


@dataclass(frozen=True)
class Torture:
    """`answers`: every status that may come first, NO_ANSWER for silence; a provisional is left
    out."""

    section: str
    text: str
    answers: frozenset[int]
    body: str = ""
    raw_tail: bytes = b""

    def message(self, target: str) -> bytes:
        body = self.body.replace("\n", "\r\n").encode("latin-1")
        text = self.text.replace("{target}", target).replace("{length}", str(len(body)))
        return text.replace("\n", "\r\n").encode("latin-1") + body + self.raw_tail


def _torture(section: str, text: str, *answers: int, body: str = "", tail: bytes = b"") -> Torture:
    return Torture(section, text.lstrip("\n"), frozenset(answers), body, tail)


_VIA = "Via: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK-"
# What an element may do with a request that it finds malformed (RFC 3261, 8.2): say so, or drop it.
_MALFORMED = (NO_ANSWER, 400)
_REFUSED_CALL = (400, 403, 404, 415, 480, 486, 488, 500, 503)

MESSAGES: dict[str, Torture] = {
    # 3.1.1: unusual, and valid
    "wsinv": _torture("3.1.1.1", """
INVITE sip:vivekg@{target};unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : {length}
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;rport;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

""", NO_ANSWER, 481, *_REFUSED_CALL, body=_SDP),
    "intmeth": _torture("3.1.1.2", f"""
!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@{{target}} SIP/2.0
{_VIA}-.!%66*_+`'~
To: "BEL:\x07 NUL:\x00 DEL:\x7f" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>
From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%="\xd1\x80\xd0\xb0\xd0\xb1";tag=_token~1'+`*%!-.
Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/"][?}}{{
CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~
Max-Forwards: 255
extensionHeader-!.%*+_`'~:\xef\xbb\xbf\xe5\xa4\xa7
Content-Length: 0

""", *_MALFORMED, 405, 501),
    "esc01": _torture("3.1.1.3", f"""
INVITE sip:sips%3Auser%40example.com@{{target}} SIP/2.0
To: sip:%75se%72@example.com
From: <sip:I%20have%20spaces@example.net>;tag=938
Max-Forwards: 87
i: esc01.239409asdfakjkn23onasd0-3234
CSeq: 234234 INVITE
{_VIA}esc01
C: application/sdp
Contact: <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>
Content-Length: {{length}}

""", *_REFUSED_CALL, body=_SDP),
    "escnull": _torture("3.1.1.4", f"""
REGISTER sip:{{target}} SIP/2.0
To: sip:null-%00-null@example.com
From: sip:null-%00-null@example.com;tag=839923423
Max-Forwards: 70
Call-ID: escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd
CSeq: 14398234 REGISTER
{_VIA}escnull
Contact: <sip:%00@host5.example.com>
Contact: <sip:%00%00@host5.example.com>
L:0

""", *_MALFORMED, 405, 501),
    "esc02": _torture("3.1.1.5", f"""
RE%47IST%45R sip:{{target}} SIP/2.0
To: "%Z%45" <sip:resource@example.com>
From: "%Z%45" <sip:resource@example.com>;tag=f232jadfj23
Call-ID: esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf
{_VIA}209%fzsnel234
CSeq: 29344 RE%47IST%45R
Max-Forwards: 70
Contact: <sip:alias1@host1.example.com>
C%6Fntact: <sip:alias2@host2.example.com>
Contact: <sip:alias3@host3.example.com>
l: 0

""", *_MALFORMED, 405, 501),
    "lwsdisp": _torture("3.1.1.6", f"""
OPTIONS sip:user@{{target}} SIP/2.0
To: sip:user@example.com
From: caller<sip:caller@example.com>;tag=323
Max-Forwards: 70
Call-ID: lwsdisp.1234abcd@funky.example.com
CSeq: 60 OPTIONS
{_VIA}lwsdisp
l: 0

""", 200),
    "longreq": _torture("3.1.1.7", f"""
INVITE sip:user@{{target}} SIP/2.0
To: "I have a user name of {'extreme ' * 40}proportion"<sip:user@example.com:6000;unknownparam1={'very' * 60}longvalue;longparam{'name' * 30}=shortvalue;very{'long' * 60}ParameterNameWithNoValue>
F: sip:{'amazinglylongcallername' * 9}@example.net;tag=12{'982' * 50}424;unknownheaderparam{'name' * 20}=unknowheaderparam{'value' * 15};unknownValueless{'paramname' * 10}
Call-ID: longreq.one{'really' * 20}longcallid
CSeq: 3882340 INVITE
Unknown-{'Long' * 20}-Name: unknown-{'long' * 20}-value; unknown-{'long' * 20}-parameter-name = unknown-{'long' * 20}-parameter-value
{_VIA}longreq
Via: SIP/2.0/TCP sip33.example.com
v: SIP/2.0/TCP sip32.example.com
V: SIP/2.0/TCP sip31.example.com
Via: SIP/2.0/TCP sip30.example.com, SIP/2.0/TCP sip29.example.com, SIP/2.0/TCP sip28.example.com
v: SIP/2.0/TCP sip27.example.com, SIP/2.0/TCP sip26.example.com, SIP/2.0/TCP host.example.com;received=192.0.2.5;branch={'verylong' * 30}branchvalue
Max-Forwards: 70
Contact: <sip:{'amazinglylongcallername' * 9}@host5.example.net>
Content-Type: application/sdp
l: {{length}}

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "dblreq": _torture("3.1.1.8", f"""
REGISTER sip:{{target}} SIP/2.0
To: sip:j.user@example.com
From: sip:j.user@example.com;tag=43251j3j324
Max-Forwards: 8
I: dblreq.0ha0isndaksdj99sdfafnl3lk233412
Contact: sip:j.user@host.example.com
CSeq: 8 REGISTER
{_VIA}dblreq
Content-Length: 0


INVITE sip:joe@{{target}} SIP/2.0
t: sip:joe@example.com
From: sip:caller@example.net;tag=141334
Max-Forwards: 8
Call-ID: dblreq.0ha0isnda977644900765@192.0.2.15
CSeq: 8 INVITE
Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw380234
Content-Type: application/sdp
Content-Length: 150

""", 405, 501, body=_SDP),
    "semiuri": _torture("3.1.1.9", f"""
OPTIONS sip:user;par=u%40example.net@{{target}} SIP/2.0
To: sip:j_user@example.com
From: sip:caller@example.org;tag=33242
Max-Forwards: 3
Call-ID: semiuri.0ha0isndaksdj
CSeq: 8 OPTIONS
Accept: application/sdp, application/pkcs7-mime, multipart/mixed
{_VIA}semiuri
l: 0

""", 200),
    "transports": _torture("3.1.1.10", f"""
OPTIONS sip:user@{{target}} SIP/2.0
To: sip:user@example.com
From: <sip:caller@example.com>;tag=323
Max-Forwards: 70
Call-ID:  transports.kijh4akdnaqjkwendsasfdj
Accept: application/sdp
CSeq: 60 OPTIONS
{_VIA}transports
Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf
Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj
Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en
Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee
l: 0

""", 200),
    "mpart01": _torture("3.1.1.11", f"""
MESSAGE sip:kumiko@{{target}} SIP/2.0
{_VIA}mpart01
Max-Forwards: 70
To: <sip:kumiko@example.org>
From: <sip:fluffy@example.com>;tag=1094253
Call-ID: mpart01.7fb2c5b6@example.com
CSeq: 1 MESSAGE
Content-Type: multipart/mixed;boundary=7a9cbec02ceef655
MIME-Version: 1.0
Content-Length: {{length}}

""", *_MALFORMED, 200, 202, 405, 415, 501, body=(
        "--7a9cbec02ceef655\nContent-Type: text/plain\nContent-Transfer-Encoding: binary\n\n"
        "Hello\n--7a9cbec02ceef655\nContent-Type: application/octet-stream\n"
        "Content-Transfer-Encoding: binary\n\n0\x82\x01R\x06\x09*\x86H\x86\xf7\x0d\x01\x07\x02\x00\n"
        "--7a9cbec02ceef655--\n"
    )),
    "unreason": _torture("3.1.1.12", f"""
SIP/2.0 200 = 2**3 * 5**2 \xd0\xbd\xd0\xbe \xd1\x81\xd1\x82\xd0\xbe
{_VIA}unreason
Call-ID: unreason.1234ksdfak3j2erwedfsASdf
CSeq: 35 INVITE
From: sip:user@example.com;tag=11141343
To: sip:user@example.edu;tag=2229
Content-Length: {{length}}
Content-Type: application/sdp
Contact: <sip:user@host198.example.com>

""", NO_ANSWER, body=_SDP),
    "noreason": _torture("3.1.1.13", f"""
SIP/2.0 100\x20
{_VIA}noreason
Call-ID: noreason.asndj203insdf99223ndf
CSeq: 35 INVITE
From: <sip:user@example.com>;tag=39ansfi3
To: <sip:user@example.edu>;tag=902jndnke3
Content-Length: 0
Contact: <sip:user@host105.example.com>

""", NO_ANSWER),
    # 3.1.2: not valid
    "badinv01": _torture("3.1.2.1", """
INVITE sip:user@{target} SIP/2.0
To: sip:j.user@example.com
From: sip:caller@example.net;tag=134161461246
Max-Forwards: 7
Call-ID: badinv01.0ha0isndaksdjasdf3234nas
CSeq: 8 INVITE
Via: SIP/2.0/UDP 127.0.0.1;rport;;,;,,
Contact: "Joe" <sip:joe@example.org>;;;;
Content-Length: {length}
Content-Type: application/sdp

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "clerr": _torture("3.1.2.2", f"""
INVITE sip:user@{{target}} SIP/2.0
Max-Forwards: 80
To: sip:j.user@example.com
From: sip:caller@example.net;tag=93942939o2
Contact: <sip:caller@hungry.example.net>
Call-ID: clerr.0ha0isndaksdjweiafasdk3
CSeq: 8 INVITE
{_VIA}clerr
Content-Type: application/sdp
Content-Length: 9999

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "ncl": _torture("3.1.2.3", f"""
INVITE sip:user@{{target}} SIP/2.0
Max-Forwards: 254
To: sip:j.user@example.com
From: sip:caller@example.net;tag=32394234
Call-ID: ncl.0ha0isndaksdj2193423r542w35
CSeq: 0 INVITE
{_VIA}ncl
Contact: <sip:caller@example53.example.net>
Content-Type: application/sdp
Content-Length: -999

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "scalar02": _torture("3.1.2.4", f"""
REGISTER sip:{{target}} SIP/2.0
{_VIA}scalar02;ttl=9999
To: <sip:user@example.com>
From: <sip:user@example.com>;tag=239232jh3
CSeq: 36893488147419103232 REGISTER
Call-ID: scalar02.23o0pd9vanlq3wnrlnewofjas9ui32
Max-Forwards: 300
Expires: 1{'0' * 100}
Contact: <sip:user@host129.example.com>
  ;expires=280297596632815
Content-Length: 0

""", *_MALFORMED, 405, 501),
    "scalarlg": _torture("3.1.2.5", f"""
SIP/2.0 503 Service Unavailable
{_VIA}scalarlg
To: <sip:user@example.com>;tag=asdfafaf
From: <sip:user@example.com>;tag=1asdfasf
CSeq: 9292394834772304023312 OPTIONS
Call-ID: scalarlg.noase0of0234hn2qofoaf0232aewf2394r
Retry-After: 949302838503028349304023988
Warning: 1812 overture "In Progress"
Content-Length: 0

""", NO_ANSWER),
    "quotbal": _torture("3.1.2.6", f"""
INVITE sip:user@{{target}} SIP/2.0
To: "Mr. J. User <sip:j.user@example.com>
From: sip:caller@example.net;tag=93334
Max-Forwards: 10
Call-ID: quotbal.aksdj
Contact: <sip:caller@host59.example.net>
CSeq: 8 INVITE
{_VIA}quotbal
Content-Type: application/sdp
Content-Length: {{length}}

""", *_MALFORMED, body=_SDP),
    "ltgtruri": _torture("3.1.2.7", f"""
INVITE <sip:user@{{target}}> SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=39291
Max-Forwards: 23
Call-ID: ltgtruri.1@192.0.2.5
CSeq: 1 INVITE
{_VIA}ltgtruri
Contact: <sip:caller@host5.example.net>
Content-Type: application/sdp
Content-Length: {{length}}

""", NO_ANSWER, *_REFUSED_CALL, 416, body=_SDP),
    "lwsruri": _torture("3.1.2.8", f"""
INVITE sip:user@{{target}}; lr SIP/2.0
To: sip:user@example.com;tag=3xfe-9921883-z9f
From: sip:caller@example.net;tag=231413434
Max-Forwards: 5
Call-ID: lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423
CSeq: 2130706432 INVITE
{_VIA}lwsruri
Contact: <sip:caller@host1.example.net>
Content-Type: application/sdp
Content-Length: {{length}}

""", *_MALFORMED, 481, body=_SDP),
    "lwsstart": _torture("3.1.2.9", f"""
INVITE  sip:user@{{target}}  SIP/2.0
Max-Forwards: 8
To: sip:user@example.com
From: sip:caller@example.net;tag=8814
Call-ID: lwsstart.dfknq234oi243099adsdfnawe3@example.com
CSeq: 1893884 INVITE
{_VIA}lwsstart
Contact: <sip:caller@host1.example.net>
Content-Type: application/sdp
Content-Length: {{length}}

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "trws": _torture("3.1.2.10", f"""
OPTIONS sip:remote-target@{{target}} SIP/2.0\x20\x20
{_VIA}trws
To: <sip:remote-target@example.com>
From: <sip:local-resource@example.com>;tag=329429089
Call-ID: trws.oicu34958239neffasdhr2345r
Accept: application/sdp
CSeq: 238923 OPTIONS
Max-Forwards: 70
Content-Length: 0

""", *_MALFORMED, 200),
    "escruri": _torture("3.1.2.11", f"""
INVITE sip:user@{{target}}?Route=%3Csip:example.com%3E SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=341518
Max-Forwards: 7
Contact: <sip:caller@host39923.example.net>
Call-ID: escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5
CSeq: 149209342 INVITE
{_VIA}escruri
Content-Type: application/sdp
Content-Length: {{length}}

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "baddate": _torture("3.1.2.12", f"""
INVITE sip:user@{{target}} SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=2234923
Max-Forwards: 70
Call-ID: baddate.239423mnsadf3j23lj42--sedfnm234
CSeq: 1392934 INVITE
{_VIA}baddate
Date: Fri, 01 Jan 2010 16:00:00 EST
Contact: <sip:caller@host5.example.net>
Content-Type: application/sdp
Content-Length: {{length}}

""", *_REFUSED_CALL, body=_SDP),
    "regbadct": _torture("3.1.2.13", f"""
REGISTER sip:{{target}} SIP/2.0
To: sip:user@example.com
From: sip:user@example.com;tag=998332
Max-Forwards: 70
Call-ID: regbadct.k345asrl3fdbv@10.0.0.1
CSeq: 1 REGISTER
{_VIA}regbadct
Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E
l: 0

""", *_MALFORMED, 405, 501),
    "badaspec": _torture("3.1.2.14", f"""
OPTIONS sip:user@{{target}} SIP/2.0
{_VIA}badaspec
Max-Forwards: 70
From: "Bell, Alexander" <sip:a.g.bell@example.com>;tag=433423
To: "Watson, Thomas" < sip:t.watson@example.org >
Call-ID: badaspec.sdf0234n2nds0a099u23h3hnnw009cdkne3
Accept: application/sdp
CSeq: 3923239 OPTIONS
l: 0

""", *_MALFORMED, 200),
    "baddn": _torture("3.1.2.15", f"""
OPTIONS sip:t.watson@{{target}} SIP/2.0
{_VIA}baddn
Max-Forwards: 70
From: Bell, Alexander <sip:a.g.bell@example.com>;tag=43
To: Watson, Thomas <sip:t.watson@example.org>
Call-ID: baddn.31415@c.example.com
Accept: application/sdp
CSeq: 3923239 OPTIONS
l: 0

""", *_MALFORMED, 200),
    "badvers": _torture("3.1.2.16", """
OPTIONS sip:t.watson@{target} SIP/7.0
Via: SIP/7.0/UDP 127.0.0.1;rport;branch=z9hG4bK-badvers
Max-Forwards: 70
From: A. Bell <sip:a.g.bell@example.com>;tag=qweoiqpe
To: T. Watson <sip:t.watson@example.org>
Call-ID: badvers.31417@c.example.com
CSeq: 1 OPTIONS
l: 0

""", *_MALFORMED, 505),
    "mismatch01": _torture("3.1.2.17", f"""
OPTIONS sip:user@{{target}} SIP/2.0
To: sip:j.user@example.com
From: sip:caller@example.net;tag=34525
Max-Forwards: 6
Call-ID: mismatch01.dj0234sxdfl3
CSeq: 8 INVITE
{_VIA}mismatch01
l: 0

""", 200, *_MALFORMED),
    "mismatch02": _torture("3.1.2.18", f"""
NEWMETHOD sip:user@{{target}} SIP/2.0
To: sip:j.user@example.com
From: sip:caller@example.net;tag=34525
Max-Forwards: 6
Call-ID: mismatch02.dj0234sxdfl3
CSeq: 8 INVITE
Contact: <sip:caller@host.example.net>
{_VIA}mismatch02
Content-Type: application/sdp
l: {{length}}

""", *_MALFORMED, 405, 501, body=_SDP),
    "bigcode": _torture("3.1.2.19", f"""
SIP/2.0 4294967301 better not break the receiver
{_VIA}bigcode
Call-ID: bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i
CSeq: 353494 INVITE
From: <sip:user@example.com>;tag=39ansfi3
To: <sip:user@example.edu>;tag=902jndnke3
Content-Length: 0
Contact: <sip:user@host105.example.com>

""", NO_ANSWER),
    # 3.2: transactions
    "badbranch": _torture("3.2.1", """
OPTIONS sip:user@{target} SIP/2.0
To: sip:user@example.com
From: sip:caller@example.org;tag=33242
Max-Forwards: 3
Via: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK
Accept: application/sdp
Call-ID: badbranch.sadonfo23i420jv0as0derf3j3n
CSeq: 8 OPTIONS
l: 0

""", *_MALFORMED, 200),
    # 3.3: applications
    "insuf": _torture("3.3.1", f"""
INVITE sip:user@{{target}} SIP/2.0
CSeq: 193942 INVITE
{_VIA}insuf
Content-Type: application/sdp
l: {{length}}

""", *_MALFORMED, body=_SDP),
    "unkscm": _torture("3.3.2", f"""
OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=384
Max-Forwards: 3
Call-ID: unkscm.nasdfasser0q239nwsdfasdkl34
CSeq: 3923423 OPTIONS
{_VIA}unkscm
Content-Length: 0

""", *_MALFORMED, 200, 416),
    "novelsc": _torture("3.3.3", f"""
OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=384
Max-Forwards: 3
Call-ID: novelsc.asdfasser0q239nwsdfasdkl34
CSeq: 3923423 OPTIONS
{_VIA}novelsc
Content-Length: 0

""", *_MALFORMED, 200, 416),
    "unksm2": _torture("3.3.4", f"""
REGISTER sip:{{target}} SIP/2.0
To: isbn:2983792873
From: <http://www.example.com>;tag=3234233
Call-ID: unksm2.daksdj@hyphenated-host.example.com
CSeq: 234902 REGISTER
Max-Forwards: 70
{_VIA}unksm2
Contact: <name:John_Smith>
l: 0

""", *_MALFORMED, 405, 416, 501),
    "bext01": _torture("3.3.5", f"""
OPTIONS sip:user@{{target}} SIP/2.0
To: sip:j_user@example.com
From: sip:caller@example.net;tag=242etr
Max-Forwards: 6
Call-ID: bext01.0ha0isndaksdj
Require: nothingSupportsThis, nothingSupportsThisEither
Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis
CSeq: 8 OPTIONS
{_VIA}bext01
Content-Length: 0

""", 200, 420),
    "invut": _torture("3.3.6", f"""
INVITE sip:user@{{target}} SIP/2.0
Contact: <sip:caller@host5.example.net>
To: sip:j.user@example.com
From: sip:caller@example.net;tag=8392034
Max-Forwards: 70
Call-ID: invut.0ha0isndaksdjadsfij34n23d
CSeq: 235448 INVITE
{_VIA}invut
Content-Type: application/unknownformat
Content-Length: {{length}}

""", *_REFUSED_CALL, body="<audio>\n <pcmu port=\"443\"/>\n</audio>\n"),
    "regaut01": _torture("3.3.7", f"""
REGISTER sip:{{target}} SIP/2.0
To: sip:j.user@example.com
From: sip:j.user@example.com;tag=87321hj23128
Max-Forwards: 8
Call-ID: regaut01.0ha0isndaksdj
CSeq: 9338 REGISTER
{_VIA}regaut01
Authorization: NoOneKnowsThisScheme opaque-data=here
Content-Length:0

""", *_MALFORMED, 405, 501),
    "multi01": _torture("3.3.8", f"""
INVITE sip:user@{{target}} SIP/2.0
Contact: <sip:caller@host25.example.net>
{_VIA}multi01
Max-Forwards: 70
CSeq: 5 INVITE
Call-ID: multi01.98asdh@192.0.2.1
CSeq: 59 INVITE
Call-ID: multi01.98asdh@192.0.2.2
From: sip:caller@example.com;tag=3413415
To: sip:user@example.com
To: sip:other@example.net
From: sip:caller@example.net;tag=2923420123
Content-Type: application/sdp
l: {{length}}
Contact: <sip:caller@host36.example.net>
Max-Forwards: 5

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
    "mcl01": _torture("3.3.9", f"""
OPTIONS sip:user@{{target}} SIP/2.0
{_VIA}mcl01
To: sip:j.user@example.com
From: sip:nobody@example.net;tag=93213j
Call-ID: mcl01.fhn2323orihawfdoa3o4r52o3irsdf
CSeq: 15932 OPTIONS
Content-Length: 13
Max-Forwards: 60
Content-Length: 5
Content-Type: text/plain

""", *_MALFORMED, 200, body="There's no way to know how many octets are supposed to be here.\n"),
    "bcast": _torture("3.3.10", f"""
SIP/2.0 200 OK
Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923
{_VIA}bcast
Call-ID: bcast.0384840201234ksdfak3j2erwedfsASdf
CSeq: 35 INVITE
From: sip:user@example.com;tag=11141343
To: sip:user@example.edu;tag=2229
Content-Length: {{length}}
Content-Type: application/sdp
Contact: <sip:user@host28.example.com>

""", NO_ANSWER, body=_SDP),
    "zeromf": _torture("3.3.11", f"""
OPTIONS sip:user@{{target}} SIP/2.0
To: sip:user@example.com
From: sip:caller@example.net;tag=3ghsd41
Call-ID: zeromf.jfasdlfnm2o2l43r5u0asdfas
CSeq: 39234321 OPTIONS
{_VIA}zeromf
Max-Forwards: 0
Content-Length: 0

""", 200, 483),
    "cparam01": _torture("3.3.12", f"""
REGISTER sip:{{target}} SIP/2.0
{_VIA}cparam01
Max-Forwards: 70
From: sip:watson@example.com;tag=DkfVgjkrtMwaerKKpe
To: sip:watson@example.com
Call-ID: cparam01.70710@saturn.example.com
CSeq: 2 REGISTER
Contact: sip:+19725552222@gw1.example.net;unknownparam
l: 0

""", *_MALFORMED, 405, 501),
    "cparam02": _torture("3.3.13", f"""
REGISTER sip:{{target}} SIP/2.0
{_VIA}cparam02
Max-Forwards: 70
From: sip:watson@example.com;tag=838293
To: sip:watson@example.com
Call-ID: cparam02.70710@saturn.example.com
CSeq: 3 REGISTER
Contact: <sip:+19725552222@gw1.example.net;unknownparam>
l: 0

""", *_MALFORMED, 405, 501),
    "regescrt": _torture("3.3.14", f"""
REGISTER sip:{{target}} SIP/2.0
To: sip:user@example.com
From: sip:user@example.com;tag=8
Max-Forwards: 70
Call-ID: regescrt.k345asrl3fdbv@192.0.2.1
CSeq: 14398234 REGISTER
{_VIA}regescrt
M: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>
L:0

""", *_MALFORMED, 405, 501),
    "sdp01": _torture("3.3.15", f"""
INVITE sip:user@{{target}} SIP/2.0
To: sip:j_user@example.com
Contact: <sip:caller@host15.example.net>
From: sip:caller@example.net;tag=234
Max-Forwards: 5
Call-ID: sdp01.ndaksdj9342dasdd
Accept: text/nobodyKnowsThis
CSeq: 8 INVITE
{_VIA}sdp01
Content-Length: {{length}}
Content-Type: application/sdp

""", 406, *_REFUSED_CALL, body=_SDP),
    # 3.4: before RFC 3261
    "inv2543": _torture("3.4.1", f"""
INVITE sip:UserB@{{target}} SIP/2.0
{_VIA.partition(';branch')[0]}
From: <sip:caller@example.net>
To: sip:UserB@example.com
Call-ID: inv2543.1717@ift.client.example.com
CSeq: 56 INVITE
Content-Type: application/sdp

""", NO_ANSWER, *_REFUSED_CALL, body=_SDP),
}  # fmt: skip

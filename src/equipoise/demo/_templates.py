"""The sentence templates of the synthetic demo set: every line invented for Equipoise.

A template is one line: a base score, a blank, the text. Four marks make it vary:

- ``{name}``   a word list of `_phrases`, a number, or a verb of movement: ``{rises}`` adds the verb's strength to the
               score, ``{falls}`` takes it away, ``{moves}`` is either.
- ``!``        behind a verb turns the sign, because costs that rise are bad news: ``{rises!}``.
- ``[a|b]``    one of the choices; ``[a~+.2|b]`` where the choice changes the score.
- ``{etail}``  now and then a clause that confirms, softens or turns what was said before it; ``{mtail}`` for prices.
"""

TEMPLATES: dict[tuple[str, str], str] = {}

TEMPLATES["earnings", "headline"] = """
0 {co} to publish its {qa} results on {day} {month}
0 {co} reports {qa} revenue of {amt}, [in line with|matching] [forecasts|the consensus]
0 {co}: {metric} {amt} in {q}, against {amt} a year earlier
0 {co} {metric} {moves} {pct} in {q}{etail}
0 {co}'s {metric} {moves} to {amt}{etail}
0 {co}'s {badmetric} {moves!} {pct} in {q}{etail}
0 {badmetric} at {co} {moves!} to {amt}{etail}
0 {metric} at {co} {moves} {pct} [year on year|from a year ago|on the quarter]{etail}
.02 {co} keeps its forecast for {yr} unchanged
.03 {co} confirms guidance: {metric} [around|close to] {amt}
0 {co} changes how it reports segment profit, restates {past} figures
0 {co} moves its financial year to end in {month}
-.02 {co} sees {yr} {metric} flat to slightly [up~+.1|down~-.08]
+.34 {co} pays down debt early as {metric} {rises} {pct}
+.3 {co} margin widens for the {nth} quarter in a row
+.4 {co} [raises|lifts] its {yr} guidance [after a strong start|on firmer demand~+.05|for a second time~+.2]
-.5 {co} [cuts|lowers|trims~+.15] its outlook, citing {blame}
-.62 {co} issues [a profit warning|its second profit warning in {n} months~-.2] on {blame}
+.55 {co} swings to a profit of {amt} [from a loss|after {n} quarters of losses]
-.55 {co} swings to a loss of {amt} [from a profit a year ago|as {badmetric} {rises!}]
+.3 {co} narrows its loss to {amt} [as costs {fall!}|despite lower sales~-.12]
-.2 {co} avoids a loss, but only thanks to a tax credit
.12 {co} results not as bad as feared, {metric} {falls} {pct}
-.06 {co} posts record sales and a thinner margin
+.62 {co} posts record {metric}, [raises the dividend {pct}~+.1|well above every estimate~+.16]
-.68 {co} scraps its dividend [as losses mount~-.1|to save cash]
0 {co} proposes an unchanged dividend of {cents} per share
+.2 {co} lifts its dividend to {cents} per share
-.1 {co} beats on profit, misses on revenue
.1 {co} misses on revenue, beats on profit
-.04 Profit growth at {co} slows to {pct}, [as flagged in {month}~+.04|below the pace of rivals~-.16]
-.75 {co} warns it may breach loan terms after {metric} {falls} {pct}
+.1 {co} sales {rise} {pct} [including acquisitions~-.08|at constant currencies|, while profit barely moves~-.14]
"""

TEMPLATES["earnings", "post"] = """
0 {tick} reports [tomorrow|on {weekday}|after the close]. Consensus is {metric} of {amt}
0 anyone got the {tick} call transcript for {q}?
0 {tick} {metric} {moved} {pct} in {q}{etail}.
0 {tick} {badmetric} {moved!} {pct}. [Make of that what you will.|That's the number I was watching.]
+.5 {tick} [crushed it~+.15|did it again|beat across the board~+.08]: {metric} up {pct}
-.55 {tick} missed on everything. [Again.~-.1|{metric} {fell} {pct}.|Even the low bar.]
-.58 Love waking up to another profit warning from {tick}. [Exactly what I needed.|Truly a gift.]
-.4 oh look, {tick} "adjusted" its way to a profit. [Impressive stuff.|Magic.|Accounting is an art.]
.22 not gonna lie, expected way worse from {tick}. {metric} only {fell} {pct}
+.4 {tick} guided up again, {metric} tracking [ahead of plan|nicely~-.06]
+.34 slow and steady: {tick} grew {metric} {pct} with no new debt
-.24 {tick} beat by a cent and guided down. [That's not a beat.|You know how this ends.]
.05 mixed bag from {tick}: {metric} {rose}, {badmetric} {rose!}
+.3 {tick} finally free cash flow positive. [Took them long enough~-.05|Never thought I'd see it|Patience paid~+.1]
.06 {tick} numbers fine. Not great, not terrible
+.12 less red ink at {tick} this quarter, loss {fell!} to {amt}
-.3 how does {tick} grow sales {pct} and still lose {amt}??
+.42 everyone laughed at {tick} in {past}. {metric} has doubled since
0 For the spreadsheet people: {tick} {qa} {metric} {amt}, tax rate {smallpct}, share count flat
"""

TEMPLATES["market", "headline"] = """
0 {co} shares {move} {pct} {mtail}
0 {co} shares {move} [at the open|by midday|in early trading], {weekday}'s move {pct}
0 {co} stock {moves} {pct}{mtail}
0 {co} bonds {move} [after the auction|as yields shift|before the rating review]
0 {broker} starts coverage of {co} with a neutral view
0 {broker} [repeats|reiterates] its hold rating on {co}
.03 {co} to join the mid-cap index from {month}
0 {co} shares trade without the dividend from {weekday}
0 {co} sets {day} {month} as the record date for its share split
+.42 {broker} upgrades {co} to buy[| on valuation~-.04|, sees {pct} upside~+.06]
-.42 {broker} cuts {co} to sell[| on valuation~+.05|, sees more downside~-.08]
.1 {broker} raises its price target on {co}, still advises [holding~-.04|selling~-.22]
-.1 {broker} lowers its price target on {co}, [keeps its buy rating~+.2|calls the shares fairly valued]
+.66 {co} shares hit [a record high|a {n}-year high] after {pct} rally
-.66 {co} shares hit [a record low|their lowest since {past}] as sellers pile in
.0 {co} completes buyback worth {amt}
+.26 {co} announces share buyback of {amt}
+.3 {co} shares recover [all~+.06|most] of {month}'s losses
-.4 {co} prices rights issue at a {pct} discount
-.7 Trading in {co} halted after shares lose {bigpct} in minutes
+.35 Rating agency lifts {co} to investment grade[|, outlook stable]
-.45 Rating agency cuts {co} to junk[|, outlook negative~-.1|, as widely expected~+.12]
.14 {co} shares fall less than the market on {weekday}
-.16 {co} shares miss out on the rally
0 Options traders price a {pct} swing in {co} around results
.02 {co} to move its listing [to the main board~+.08|from one venue to another]
"""

TEMPLATES["market", "post"] = """
0 {tick} volume is {n}x average today, no news that I can find
0 watching {tick} at {price}, no position yet
0 {tick} {moved} {pct} today{mtail}
-.1 {tick} down {pct} on no news. [Buying.~+.3|Patience.~+.06|Somebody knows something.~-.25]
+.1 {tick} up {pct} on no news. [Enjoy it.~+.1|Trimming here.~-.22|Smells like a squeeze.~-.08]
+.6 {tick} to the moon, [told you at {price}~+.1|best chart on my screen|shorts are toast~+.1]
-.62 {tick} is a falling knife. [Down {bigpct} since {month}.|I'd not touch it with yours.~-.05]
-.48 my {tick} bag keeps getting heavier. Great diversification strategy [lol|/s|, would recommend]
.28 {tick} oversold imo, risk/reward looks [decent|good~+.08|ok here~-.06]
-.28 {tick} at {n} times sales with no growth? No thanks
0 {tick} earnings straddle costs {smallpct}. [Too rich?|Fair I guess.]
0 Sold my {tick} to pay for a roof. [Nothing to do with the company.|Good luck all.]
-.05 bears say {tick} is dead, bulls say it's cheap. [I say it's lunch time.|Both can be right.]
.12 {tick} didn't break support today. [Small win.|Not nothing.]
-.14 {tick} couldn't hold the breakout
.45 {tick} shorts were wrong. Again. [{pct} in a week.|]
"""

TEMPLATES["products", "headline"] = """
0 {co} to show {newthing} at trade fair in {month}
0 {co} [launches|introduces|unveils] {newthing} in {region}
0 {co} renames its range of {things}
0 {co} to make {things} in {region} from {yr}
0 {co} opens {n} shops in {region}, closes {n} elsewhere
0 {co} ships the first {things} to {region}
+.3 {co} sees [brisk~+.05|solid|better-than-planned~+.12] demand for its {things}
-.32 {co} sees [weak|sluggish|softer~+.1] demand for its {things} in {region}
+.5 {co} wins order for {things} worth {amt}
+.36 {co} sells out of {things} before the season starts
-.45 {co} loses order for {things} worth {amt} to a rival
-.6 {co} recalls {count} {things} [over a fire risk~-.12|over faulty seals|as a precaution~+.16]
.16 {co} ends recall of {things}, finds no fault
-.2 {co} delays {newthing} [to {yr}|by {n} months|again~-.15]
+.24 {co} brings forward the launch of {newthing}
+.66 {co}'s pilot with {newthing} [beats its main goal|succeeds ahead of plan|far exceeds targets~+.12]
-.72 {co} ends work on {newthing} after [failed trial|safety findings~-.12|{n} years~+.18]
.0 {co} raises prices of {things} by {smallpct}
-.12 {co} sells more {things}, at lower prices
+.1 {co}'s {things} gain share in {region} as market shrinks {pct}
0 Sales of {things} at {co} {move} {pct} in {q}{etail}
0 Returns of {things} at {co} {move!} {pct}
-.5 {co} halts production of {things} as parts run out
.34 {co} restarts production of {things} after {n} weeks
.22 Users' complaints about {co} {things} {fall!} {pct}
"""

TEMPLATES["products", "post"] = """
0 {tick} just put {newthing} on its site. Price says {price}
0 does anyone here use {things} from {co}? [Thinking about the stock.|Curious.]
+.45 my whole office switched to {co} {things}. [Should own the stock|Quality is unreal~+.12|{tick} is a sleeping giant]
-.5 third {co} device in a year that broke. [Who owns {tick}??|Brilliant engineering, really.]
-.45 {newthing} from {co}. [Groundbreaking.|Nobody asked, but ok.|Visionary.] Meanwhile the app still crashes
.2 tried {newthing} by {co}, it's actually not bad
-.18 {newthing} by {co} looks nice, shame about the price
+.58 waiting list for {co} {things} is {n} weeks. [Demand problem, they said|$$$~+.05|Insane~+.05]
-.34 {co} shelves still full of last year's {things}. [Channel check done.|Not what you want to see.]
.04 {co} {things}: great reviews, tiny market
-.7 {co} {things} catching fire is not the kind of heat I wanted from {tick}
0 so {tick} will build {things} in {region} now. [ok|Interesting, I guess]
.15 new {co} update fixes the bug that [cost them {n}k users|everybody hated~+.06]. about time
"""

TEMPLATES["deals", "headline"] = """
0 {co} [completes|closes] purchase of {co2}
0 {co} in talks [to buy|with] {co2}, no decision made
0 {co} considers options for its {unit}
0 {co} sells {unit} to {co2} for {amt}
0 {co2} takes a {smallpct} stake in {co}
0 {co} and {co2} form venture to sell {things} in {region}
0 {co} extends supply contract with {co2} to {yr}
+.55 {co} wins [{amt} contract|its largest contract to date~+.18|contract extension~-.15] in {region}
-.52 {co} loses [{amt} contract|its largest customer~-.2] in {region}
+.6 {co} agrees to {amt} takeover at a {pct} premium
+.38 {co} renews {amt} framework deal with {co2}
-.3 {co2} walks away from bid for {co}
.24 {co} walks away from costly bid for {co2}
-.34 {co} overpays for {co2}, [say investors|analysts warn]
.34 {co} to save {amt} a year after merging with {co2}
-.4 Merger of {co} and {co2} [collapses~-.12|delayed again|in doubt~+.08]
.16 {co} gets the last approval for its merger with {co2}
-.62 {co} writes off {amt} on {co2} deal
.1 {co} sells loss-making {unit} [at a small gain~+.15|at a loss~-.22|for a token sum~-.1]
-.06 {co} buys {co2} for {amt}, takes on more debt
+.2 {co} repays {amt} loan ahead of schedule
-.14 {co} borrows {amt} to fund its {unit}
"""

TEMPLATES["deals", "post"] = """
0 {tick} and {co2} talking again per the filing. [We'll see|No price yet]
0 {tick} filing: {smallpct} holder went to {smallpct}
+.5 {tick} landing {amt} from {region} is huge [for a company this size|, way bigger than people think~+.08]
-.5 {tick} paying {amt} for {co2}. [Did anyone run the numbers?|Shareholder value, everybody.|My condolences.]
-.25 no deal for {tick}, so no premium
.3 glad {tick} did NOT buy {co2}. Discipline!
+.7 takeover bid for {tick} at {pct} premium, [what a morning~+.1|thank you and goodbye|finally]
-.56 wow, {tick} is "exploring strategic alternatives". [Always a sign of health.|We all know what that means.]
.05 {tick} sells the {unit}. Right move, wrong price
-.44 {tick} diluting us again, {amt} this time
.26 {tick} / {co2} partnership makes sense to me. [Small but smart|No downside i can see~+.06]
"""

TEMPLATES["management", "headline"] = """
0 {co} names new {role}
0 {co} {role} to retire in {yr}
0 {co} holds annual meeting on {day} {month}
0 {co} {role} sells shares worth {amt} under trading plan
0 {co} moves head office to {region}
.0 {co} board to have {n} members, one more than before
+.36 {co} {role} buys shares [worth {amt}|after the slump~+.05|for the first time in {n} years~+.08]
-.46 {co} {role} [quits|resigns|leaves] [without notice~-.14|after {n} months in the job|over strategy~-.04]
.2 {co} [calms|pleases] investors with pick for {role}
-.5 {co} to cut {count} jobs [as orders dry up~-.12|in {region}|, less than unions had feared~+.2]
.32 {co} to hire {count} people in {region}
-.02 {co} cuts {n} management layers to save {amt}
-.64 {co} {role} suspended [over expenses|in bookkeeping inquiry~-.14]
.14 {co} {role} stays on after all
-.24 {co} investors vote against pay plan
.44 {co}'s turnaround plan [pays off early|ahead of schedule] under new {role}
.1 {co} and unions [reach|agree on] pay deal of {smallpct}, avert strike
-.4 Strike at {co} [enters week {n}|halts {n} plants~-.1]
"""

TEMPLATES["management", "post"] = """
0 {tick} AGM is on {weekday}, [who is voting?|anyone going?]
0 new {role} at {tick}, came from {co2}
-.52 {tick} {role} leaving "to spend time with family". [Sure.|Second one this year~-.08|Nothing to see here.]
.5 {tick} {role} just bought {amt} of stock on the open market. [That's conviction|I'll follow~+.04]
-.45 {amt} bonus for missing every target. [Well deserved, {tick}!|Where do I apply, {tick}?]
.3 say what you like about the {tick} {role}, the plan is working
+.36 best {role} in the sector runs {tick}, and it shows
-.15 {tick} {role} talks a good game. Waiting for numbers
.08 {tick} {role} didn't dodge the hard questions for once
-.6 {tick} management has [no clue|destroyed more value than the crash~-.1|lied to us for {n} quarters~-.15]
"""

TEMPLATES["legal", "headline"] = """
0 {court} to hear {co} case in {month}
0 {co} and {co2} settle patent dispute, terms not disclosed
0 {co} files patent for {newthing}
.0 {agency} opens routine review of {co} {unit}
+.46 {court} [clears {co} of wrongdoing~+.1|drops case against {co}|rejects claim against {co}]
-.55 {agency} fines {co} {amt} [over price fixing|for late filings~+.14|over data leak]
.2 {court} cuts fine for {co} by {pct}
+.32 {co} wins back the right to sell {things} in {region}
-.3 {co} sued by {co2} over {things}
.06 {co} sues {co2} over {things}
-.74 {agency} raids {co} offices in [fraud inquiry|bribery case]
-.04 {co} pays {amt} to end lawsuit, [less than it had set aside~+.2|admits no fault]
.54 {agency} approves {co} {things} for sale in {region}
-.58 {agency} refuses to approve {co} {things}
-.8 {co} files for protection from creditors
"""

TEMPLATES["legal", "post"] = """
0 hearing for {tick} moved to {month}
-.5 {tick} investigated again. [What could possibly go wrong.|Shocked, I tell you.|Same story as {past}.]
.48 case against {tick} dismissed!! [Overhang gone|Took {n} years]
.14 {tick} fine is {amt}. Bad, but the market feared double
-.7 {tick} accountants resigned. [Run.|Get out while you can.~-.12]
.02 {tick} settled. [Fine by me|Lawyers win, as usual~-.12]
"""

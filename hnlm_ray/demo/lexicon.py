"""The words of the synthetic book shop: genres, their sub-genres, and what books of each are about."""

from typing import NamedTuple


class SubgenreWords(NamedTuple):
    """What titles and blurbs of one sub-genre are made of."""

    heroes: tuple[str, ...]
    motifs: tuple[str, ...]
    nouns: tuple[str, ...]


def _split(text: str) -> list[str]:
    return text.split()


def _words(heroes: str, motifs: str, nouns: str) -> SubgenreWords:
    return SubgenreWords(*(tuple(part.split(", ")) for part in (heroes, motifs, nouns)))


GENRES: dict[str, dict[str, SubgenreWords]] = {
    "Fantasy": {
        "Epic Fantasy": _words(
            "a banished queen, a reluctant heir, an oathless knight",
            "dragons, ancient prophecies, besieged kingdoms",
            "Crown, Throne, Oath, Banner",
        ),
        "Urban Fantasy": _words(
            "a night-shift witch, a half-fae courier, a warded detective",
            "hidden magic, vampire courts, haunted subways",
            "Familiar, Hex, Nightshift, Pact",
        ),
        "Fairy Tale Retellings": _words(
            "a clever goose girl, a cursed prince, a woodcutter's daughter",
            "talking animals, enchanted forests, broken curses",
            "Briar, Spindle, Slipper, Mirror",
        ),
        "Sword and Sorcery": _words(
            "a wandering swordswoman, a tomb robber, a branded mercenary",
            "lost temples, wicked sorcerers, tavern brawls",
            "Blade, Idol, Reaver, Tomb",
        ),
    },
    "Mystery": {
        "Cozy Mystery": _words(
            "a baker with questions, a retired teacher, a village librarian",
            "village fairs, nosy neighbours, missing recipes",
            "Teapot, Bakery, Parish, Quilt",
        ),
        "Police Procedural": _words(
            "a tired inspector, a rookie sergeant, a forensic clerk",
            "cold cases, witness interviews, station politics",
            "Docket, Precinct, Warrant, Evidence",
        ),
        "Noir": _words(
            "a broke private eye, a crooked lawyer, a torch singer",
            "rain-soaked streets, double crosses, smoky bars",
            "Alibi, Shadow, Dame, Gutter",
        ),
        "Locked Room Puzzles": _words(
            "an eccentric professor, a snowed-in guest, a chess master",
            "impossible crimes, sealed manors, hidden passages",
            "Riddle, Keyhole, Cabinet, Clock",
        ),
    },
    "Romance": {
        "Historical Romance": _words(
            "a penniless duchess, a scandalous earl, a governess",
            "ballroom scandals, secret letters, arranged marriages",
            "Duke, Waltz, Bride, Rake",
        ),
        "Contemporary Romance": _words(
            "a small-town florist, a burnt-out chef, a single father",
            "second chances, fake dating, holiday weddings",
            "Sweetheart, Summer, Kiss, Promise",
        ),
        "Paranormal Romance": _words(
            "a lonely werewolf, a smitten ghost, a mortal healer",
            "fated mates, moonlit packs, immortal lovers",
            "Moon, Fang, Mate, Soul",
        ),
        "Sports Romance": _words(
            "a benched striker, a stubborn coach, a figure skater",
            "locker-room rivals, last-minute goals, training camps",
            "Goal, Rink, Match, Season",
        ),
    },
    "Science Fiction": {
        "Space Opera": _words(
            "a smuggler captain, a fleet admiral, a runaway clone",
            "star empires, fleet battles, alien alliances",
            "Nebula, Armada, Orbit, Starship",
        ),
        "Cyberpunk": _words(
            "a burned hacker, a chrome courier, a rogue android",
            "corporate wars, neon slums, stolen memories",
            "Circuit, Protocol, Implant, Static",
        ),
        "First Contact": _words(
            "a linguist in orbit, a radio astronomer, a lone diplomat",
            "alien signals, unknown languages, silent probes",
            "Signal, Visitor, Transmission, Echo",
        ),
        "Post-Apocalyptic": _words(
            "a seed keeper, a ferry pilot, a masked scavenger",
            "ruined cities, dust storms, last harvests",
            "Ash, Wasteland, Shelter, Ember",
        ),
    },
    "Thriller": {
        "Spy Thriller": _words(
            "a burned agent, a double agent, a codebreaker",
            "dead drops, border crossings, forged passports",
            "Cipher, Defector, Asset, Directive",
        ),
        "Legal Thriller": _words(
            "a public defender, a disbarred judge, a jury foreman",
            "hostile witnesses, courtroom traps, buried verdicts",
            "Verdict, Appeal, Juror, Motion",
        ),
        "Medical Thriller": _words(
            "a trauma surgeon, a virus hunter, a night nurse",
            "secret trials, deadly outbreaks, missing patients",
            "Outbreak, Serum, Ward, Symptom",
        ),
        "Psychological Thriller": _words(
            "an unreliable wife, a sleepless neighbour, a lost twin",
            "false memories, watchful neighbours, perfect marriages",
            "Lie, Silence, Guest, Stranger",
        ),
    },
    "Horror": {
        "Haunted Houses": _words(
            "a grieving family, a sceptical caretaker, a blind medium",
            "creaking stairs, restless spirits, sealed attics",
            "House, Cellar, Nursery, Hollow",
        ),
        "Cosmic Horror": _words(
            "a drowned scholar, a lighthouse keeper, a mad painter",
            "forbidden books, sleeping gods, impossible angles",
            "Abyss, Tide, Whisper, Star",
        ),
        "Folk Horror": _words(
            "a lost hiker, a village priest, a harvest queen",
            "pagan rites, silent villagers, straw effigies",
            "Harvest, Maypole, Rite, Antler",
        ),
        "Slasher": _words(
            "a final girl, a camp counsellor, a masked stranger",
            "summer camps, masked killers, midnight chases",
            "Camp, Scream, Mask, Knife",
        ),
    },
    "History": {
        "Ancient History": _words(
            "a forgotten emperor, a temple scribe, a siege engineer",
            "fallen empires, bronze armies, buried libraries",
            "Empire, Pharaoh, Legion, Marble",
        ),
        "Military History": _words(
            "a stubborn general, a tank crew, a submarine captain",
            "doomed offensives, naval battles, trench diaries",
            "Campaign, Convoy, Regiment, Siege",
        ),
        "Maritime History": _words(
            "a mutinous crew, an arctic captain, a ship's carpenter",
            "shipwrecks, spice routes, whaling fleets",
            "Voyage, Harbour, Wreck, Anchor",
        ),
        "Social History": _words(
            "a mill worker, a street vendor, a suffragist",
            "factory towns, bread riots, everyday letters",
            "Loom, Street, Bread, Servant",
        ),
    },
    "Biography": {
        "Artist Biography": _words(
            "a rebellious sculptor, a deaf composer, a jazz pianist",
            "studio years, bitter rivals, unfinished works",
            "Canvas, Sonata, Palette, Muse",
        ),
        "Scientist Biography": _words(
            "a stubborn chemist, a self-taught astronomer, a rocket designer",
            "failed experiments, stolen credit, late prizes",
            "Formula, Telescope, Laboratory, Theorem",
        ),
        "Political Biography": _words(
            "a reluctant president, an exiled minister, a union leader",
            "backroom deals, lost elections, prison letters",
            "Ballot, Senate, Exile, Speech",
        ),
        "Athlete Biography": _words(
            "a barefoot runner, a banned boxer, a golden goalkeeper",
            "comeback seasons, broken records, early mornings",
            "Champion, Marathon, Medal, Finish",
        ),
    },
    "Cooking": {
        "Baking": _words(
            "a village baker, a pastry rebel, a sourdough monk",
            "crusty loaves, flaky pastry, wild yeast",
            "Loaf, Oven, Pastry, Flour",
        ),
        "Vegetarian Cooking": _words(
            "a market gardener, a convert cook, a bean collector",
            "market vegetables, slow beans, green sauces",
            "Garden, Bean, Root, Harvest Table",
        ),
        "Street Food": _words(
            "a noodle vendor, a taco truck owner, a night-market cook",
            "charred skewers, hand-pulled noodles, hot sauces",
            "Noodle, Skewer, Wok, Night Market",
        ),
        "Barbecue": _words(
            "a pitmaster, a stubborn smoker, a firewood expert",
            "smoked brisket, secret rubs, open fires",
            "Smoke, Grill, Brisket, Coal",
        ),
    },
    "Travel": {
        "Mountain Travel": _words(
            "a failed climber, a yak herder, a mapless walker",
            "thin air, frozen passes, base camps",
            "Summit, Ridge, Glacier, Pass",
        ),
        "Island Travel": _words(
            "a seasick poet, a ferry hopper, a shell collector",
            "slow ferries, coral reefs, empty beaches",
            "Island, Lagoon, Ferry, Reef",
        ),
        "Rail Travel": _words(
            "a sleeper-car regular, a timetable lover, a lost conductor",
            "sleeper trains, border stations, dining cars",
            "Railway, Platform, Express, Junction",
        ),
        "City Walks": _words(
            "an idle stroller, a rooftop gardener, a map maker",
            "back alleys, rooftop views, corner cafes",
            "Alley, Quarter, Bridge, Market",
        ),
    },
}
"""Genre -> sub-genre -> words. No sub-genre names a genre that is not its own, so that a text can be checked for it."""

ADJECTIVES = _split(
    "Silent Last Crimson Hidden Broken Golden Winter Lost Burning Hollow Quiet Second Secret Distant Midnight "
    "Salt Iron Paper Glass Borrowed Endless Forgotten Northern Scarlet Patient Wild Silver Final Stolen Blue"
)
MOODS = _split("gripping tender slow-burning witty dark warm sprawling sharp strange hopeful unsettling generous")
SYLLABLES = _split("al bar cor dun el fen gar hol is jor kel lor mar nor os pel quin ros sal tor ul ven wes yar zel")
FIRST_NAMES = _split(
    "Ada Bruno Carla Dmitri Elena Farid Greta Hugo Ines Jonas Keiko Lars Mira Noor Otto Petra Quentin Rosa Samir "
    "Tilda Umar Vera Wanda Yusuf Zoe"
)

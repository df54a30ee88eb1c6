"""Words by sort, for requests and exercises that should not depend on which words they use.

Every eighth word of a sort, by its hash, is held out: training never meets it where a request or an
exercise has a place for such a word. Names are real ones, and made ones by the thousand, so that a
model has to copy a name instead of knowing it."""

import random
import zlib
from collections.abc import Sequence

from daedal.worlds.tasks import phrases

NAMES = phrases(
    "Mia | Tom | Ana | Ben | Lily | Sam | Ravi | Zoe | Max | Nina | Omar | Ida | Lucy | Jack | Sara | "
    "Tim | Pim | Otto | Rosa | Leo | Maya | Finn | Ella | Hugo | Nora | Amir | Kate | Paul | Ruth | "
    "Dan | Emma | Noah | Lena | Karl | Jana | Igor | Vera | Luis | Carla | Pedro | Yuki | Ken | Mei | "
    "Wei | Priya | Arun | Asha | Kofi | Ama | Zuri | Tariq | Layla | Hana | Elif | Cem | Nils | Freya | "
    "Sven | Greta | Oscar | Alice | Peter | Grace | Rose | Daisy | Simon | Clara | David | Julia | "
    "Felix | Marta | Anton | Olga | Boris | Tessa | Joel | Naomi | Isaac | Miriam | Eva | Adam | Pia | "
    "Theo | Iris | Milo | Ruby | Jonah | Stella | Victor | Wendy | Harry | Molly | Billy | Penny | "
    "Bella | Toby | Teddy | Polly | Rita | Nico | Dora | Gus | Fay | Ned | Joy | Ali | Bo | Kim | Lou"
)
ANIMALS = phrases(
    "cat | dog | rabbit | duck | fox | bear | mouse | frog | bird | horse | goat | turtle | heron | "
    "owl | crow | hen | pig | cow | sheep | lion | tiger | wolf | deer | bee | ant | snail | crab | "
    "whale | seal | otter | mole | bat | hedgehog | squirrel | monkey | elephant | camel | donkey | "
    "parrot | penguin | swan | goose | eagle | robin | sparrow | lizard | snake | toad | beaver | "
    "badger | panda | koala | kitten | puppy | lamb | pony | spider | butterfly | beetle | dragon"
)
THINGS = phrases(
    "ball | hat | book | kite | key | lamp | drum | boat | bell | cup | box | doll | shoe | coat | "
    "scarf | spoon | plate | pot | basket | bag | chair | table | bed | clock | mirror | candle | "
    "pencil | brush | rope | ladder | wheel | cart | bike | sled | tent | flute | violin | whistle | "
    "coin | ring | necklace | button | needle | blanket | pillow | umbrella | glove | sock | jar | "
    "bottle | bucket | shovel | hammer | letter | map | stamp | puzzle | balloon | lantern | stone | "
    "feather | shell | leaf | flower | broom | mug | crown | flag | card | marble | robot | truck"
)
FOODS = phrases(
    "cake | pie | bread | soup | rice | honey | cheese | milk | jam | porridge | apple | pear | plum | "
    "cherry | banana | orange | lemon | melon | carrot | potato | tomato | onion | bean | corn | nut | "
    "egg | butter | cookie | biscuit | pancake | noodle | salad | sandwich | pumpkin | grape | tea"
)
PLACES = {  # the word that says a place, and how somebody is there
    "garden": "in the garden", "forest": "in the forest", "beach": "on the beach", "market": "at the market",
    "hill": "on the hill", "river": "by the river", "barn": "in the barn", "school": "at school", "park": "in the park",
    "lake": "at the lake", "kitchen": "in the kitchen", "farm": "on the farm", "attic": "in the attic", "cave": "in a cave",
    "island": "on an island", "castle": "in a castle", "village": "in a village", "meadow": "in the meadow",
    "mountain": "on a mountain", "harbour": "at the harbour", "library": "in the library", "bakery": "at the bakery",
    "station": "at the station", "zoo": "at the zoo", "pond": "by the pond", "bridge": "on the bridge",
    "cellar": "in the cellar", "tower": "in a tower", "desert": "in the desert", "shop": "in a shop", "field": "in a field",
    "street": "in the street", "museum": "at the museum", "playground": "at the playground", "orchard": "in the orchard",
    "train": "on a train", "ship": "on a ship", "well": "at the old well", "mill": "at the mill", "swamp": "in the swamp",
}  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink", "grey", "purple")
LOOKS = phrases(
    "small | big | old | young | brave | shy | lazy | clever | hungry | sleepy | funny | kind | proud | "
    "lonely | happy | grumpy | curious | quiet | noisy | careful | tiny | tired | friendly | silly"
)
NATURE = phrases(
    "rain | snow | wind | moon | sun | sea | fire | ice | night | winter | summer | spring | autumn | "
    "thunder | fog | sand | tree | grass | star | cloud | rainbow | river | shadow | sleep | music | "
    "dream | birthday | holiday | morning | friend"
)
PEOPLE = phrases(
    "baker | teacher | doctor | farmer | sailor | king | queen | nurse | painter | pilot | cook | "
    "tailor | gardener | postman | firefighter | fisherman | singer | carpenter | shepherd | librarian"
)
MORE_NOUNS = phrases(  # for exercises, so that a model has to copy a word instead of knowing it
    "acorn | airplane | alarm | anchor | apron | arrow | backpack | badge | bagel | banner | "
    "barrel | bathtub | bead | beam | beard | bench | berry | bikini | blossom | board | bolt | "
    "bone | boot | bow | bowl | bracelet | branch | brick | bubble | buffalo | bug | building | "
    "bull | bulb | bunny | burger | bus | bush | cabin | cable | cage | calendar | camera | canoe "
    "| cap | cape | car | caterpillar | cell | chain | chalk | chest | chick | chimney | chipmunk "
    "| cloth | clover | clown | coal | cob | cockerel | coconut | collar | comb | compass | "
    "cookbook | cork | cottage | couch | cradle | crane | crate | crayon | cricket | crocodile | "
    "crumb | cub | cube | curtain | cushion | daisy | deck | desk | dice | dinosaur | dish | "
    "dolphin | door | dough | dove | drawer | dress | dragonfly | drawing | ear | elbow | elf | "
    "engine | envelope | eraser | fan | fairy | fence | ferry | fiddle | finger | flamingo | flea "
    "| folder | fork | fountain | frame | freezer | fridge | fruit | garlic | gate | gem | ghost "
    "| giant | giraffe | glass | globe | gnome | gorilla | grandma | grasshopper | guitar | "
    "hammock | hamster | handle | harp | hawk | heater | helmet | herb | hippo | hive | hook | "
    "horn | hose | hotel | house | iceberg | igloo | jacket | jaguar | jelly | jellyfish | jewel "
    "| jigsaw | jug | kangaroo | kettle | kid | kiwi | knight | knot | ladle | ladybird | lawn | "
    "leopard | lettuce | lid | lifeboat | lighthouse | lightning | lime | llama | lobster | lock "
    "| log | lollipop | machine | magnet | magpie | mango | mask | mat | medal | meteor | "
    "microphone | mint | mitten | moth | moose | mop | motor | muffin | mushroom | nail | napkin "
    "| nest | net | newspaper | nightgown | notebook | oar | oasis | octopus | olive | orchid | "
    "ostrich | oven | paddle | page | pan | papaya | parcel | path | paw | peach | peacock | "
    "peanut | pearl | pebble | pedal | pelican | pen | pepper | petal | piano | pickle | picnic | "
    "pigeon | pillar | pin | pineapple | pipe | pirate | pizza | planet | pocket | pole | popcorn "
    "| poppy | porcupine | poster | powder | prince | princess | prize | pump | puppet | purse | "
    "quilt | raccoon | radio | radish | raft | rail | raisin | rat | raven | razor | reindeer | "
    "ribbon | road | rocket | roof | root | rug | ruler | sack | saddle | sandal | saucer | "
    "sausage | saxophone | scale | scooter | screen | seed | seagull | shark | shed | shield | "
    "shirt | shore | shrimp | skate | skirt | skunk | slipper | slope | sloth | snowman | soap | "
    "sofa | spade | spinach | sponge | squid | stable | stair | statue | stick | stool | stork | "
    "stove | straw | strawberry | string | submarine | sugar | suitcase | sunflower | sweater | "
    "swing | sword | tail | tambourine | tap | tape | teapot | telephone | telescope | thread | "
    "throne | thumb | ticket | tie | tile | toaster | toe | tomb | toothbrush | torch | towel | "
    "toy | tractor | tray | treasure | trousers | trumpet | tulip | tunnel | turkey | turnip | "
    "tyre | unicorn | van | vase | vest | vine | volcano | vulture | wagon | waffle | wallet | "
    "walnut | walrus | wasp | watch | watermelon | weasel | web | wheat | whip | wig | window | "
    "wing | witch | wizard | worm | yacht | zebra | zipper"
)
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
STARTS = phrases(
    "P | T | K | B | D | G | M | N | L | R | S | F | H | J | V | W | Z | Br | Tr | Fl | Gr | Pl | Sh | Th"
)
VOWELS = ("a", "e", "i", "o", "u", "oo", "ee")
ENDS = phrases(
    "m | n | l | k | b | p | lo | ra | mi | na | bo | ki | ly | to | sy | dor | lin | x | ff"
)


def is_held_out(word: str) -> bool:
    """Whether a word is one that only evaluation uses."""
    return zlib.crc32(f"{word}/100".encode()) % 8 == 0  # of this salt every sort has some


def pick(rng: random.Random, words: Sequence[str], held_out: bool = False) -> str:
    """A word of this side of the split."""
    while is_held_out(word := rng.choice(words)) != held_out:
        pass
    return word


def noun(rng: random.Random, words: Sequence[str], held_out: bool) -> str:
    """As `pick`; for training every other time any noun, or now and then one that is made."""
    if held_out or rng.random() < 0.5:
        return pick(rng, words, held_out)
    while rng.random() < 0.4:
        made = made_word(rng).lower()
        if not is_held_out(made):
            return made
    return rng.choice(MORE_NOUNS)


def made_word(rng: random.Random) -> str:
    return rng.choice(STARTS) + rng.choice(VOWELS) + rng.choice(ENDS)


def picks(rng: random.Random, words: Sequence[str], count: int, held_out: bool) -> list[str]:
    """So many different words of this side of the split."""
    found = dict[str, None]()
    while len(found) < count:
        found[pick(rng, words, held_out)] = None
    return list(found)


def name(rng: random.Random, held_out: bool = False) -> str:
    """A real name, or every other time one that is made."""
    while rng.random() < 0.5:
        made = made_word(rng)
        if is_held_out(made) == held_out:
            return made
    return pick(rng, NAMES, held_out)


def names(rng: random.Random, count: int, held_out: bool = False) -> list[str]:
    """So many different names."""
    found = dict[str, None]()
    while len(found) < count:
        found[name(rng, held_out)] = None
    return list(found)


def a(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    irregular = {
        "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "wolf": "wolves", "leaf": "leaves",
        "postman": "postmen", "fisherman": "fishermen", "shelf": "shelves",
    }  # fmt: skip
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")) or noun in ("potato", "tomato"):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"

"""What the Kafka sensor is made of: messages, places, the consumer and its watch."""
